"""Copies of blocks by NVIDIA GPUs: between an engine's paged cache and a slab.

The native module is built where nvcc is (``KVCORE_CUDA=auto|on|off``) and can be imported without a
GPU; `why_unavailable` says what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from kvcore.planes import IntArray, PagedPlanes, SlabMemory, plan_numbers, stream_number

if TYPE_CHECKING:
    from kvcore import _cuda
    from kvcore._cuda import DeviceFacts

PATHS = ("load_store", "bulk", "batch", "staged")


def is_built() -> bool:
    """Whether this kvcore has the CUDA module."""
    return _module() is not None


def architectures() -> tuple[str, ...]:
    """What the module has code for: ``sm_90`` machine code, ``compute_100`` PTX."""
    native = _module()
    return tuple(native.ARCHITECTURES.split()) if native else ()


def why_unavailable() -> str | None:
    """Why no GPU can be used here, or None if one can."""
    native = _module()
    if native is None:
        return "kvcore was built without CUDA; build it with KVCORE_CUDA=on"
    why: str | None = native.why_unavailable()
    return why


def available() -> bool:
    """Whether there is a GPU that the module can use."""
    return why_unavailable() is None


def runtime_version() -> str | None:
    """The CUDA that the module was built with, as ``13.0``."""
    native = _module()
    return _dotted(native.RUNTIME_VERSION) if native else None


def driver_version() -> str | None:
    """The newest CUDA that the machine's driver knows, as ``13.0``."""
    native = _module()
    return _dotted(native.driver_version()) if native else None


def devices() -> Sequence[DeviceFacts]:
    """Name, compute capability, multiprocessors and bytes of memory of each GPU."""
    native = _module()
    return native.devices() if native else ()


def pinning() -> object:
    """How host memory is registered with the GPUs, as `HostSlab.pin` takes it.

    Raises
    ------
    RuntimeError
        If CUDA is not available.
    """
    return _require_available().pinning


def allocate(num_bytes: int, device: int = 0) -> _cuda.Memory:
    """Memory of a GPU; it is given back with its last reference.

    Raises
    ------
    RuntimeError
        If CUDA is not available, or has not so much.
    """
    memory: _cuda.Memory = _require_available().Memory(_device(device), num_bytes)
    return memory


class CudaHandle:
    """A copy that was enqueued. Keeps the memory of both sides until it is done. Thread safe."""

    def __init__(self, handle: _cuda.Handle, transfer: CudaTransfer) -> None:
        self._handle = handle
        self._transfer = transfer

    def done(self) -> bool:
        """Whether all layers are in place.

        Raises
        ------
        RuntimeError
            If CUDA failed, so they never will be.
        """
        return self._handle.done()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until all layers are in place; False when the time is over first."""
        return self._handle.wait(timeout_s)

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        """Block until a layer is in place; False when the time is over first."""
        return self._handle.wait_layer(layer, timeout_s)

    def failed(self) -> bool:
        """Whether CUDA failed."""
        try:
            self._handle.done()
        except RuntimeError:
            return True
        return False

    def cancel(self) -> None:
        """Does nothing: what was enqueued on a stream cannot be taken back."""

    def hold_stream(self, stream: object, layer: int) -> None:
        """Make a stream wait for a layer: what is enqueued on it later finds that in place.

        Returns at once. The only way to wait for a copy that a graph has captured.
        """
        self._handle.hold_stream(stream_number(stream), layer)


class CudaTransfer:
    """Copies of some blocks between a paged cache on a GPU and a slab, made once and used often.

    Ids and addresses go to the device here; a copy then allocates nothing there, waits for
    nothing, and may be captured in a graph (whose replays the transfer has to outlive). Copies of
    one transfer may be in flight one after another on any streams. Thread safe.

    Parameters
    ----------
    layers : PagedPlanes
        The paged cache, in the memory of one GPU.
    slab : uint8[num_blocks, block_bytes] tensor or array, or SlabMemory
        In the memory of that GPU or in pinned host memory. A block takes the planes' runs of a
        block one after another.
    block_ids, slab_blocks : integers[n]
        The blocks of both that belong together; each once.
    device : int
        The GPU's number.
    path : str, optional
        One of `PATHS`, for measurements; by default what is expected to be fastest.
    max_thread_blocks : int
        The most thread blocks that kernels of this transfer take, so that others keep their
        multiprocessors; 0 leaves it to us: 8 where the host has the slab, 2 a multiprocessor else.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, ids are out of range or there twice, or memory is not where it has
        to be; nothing was copied.
    RuntimeError
        If CUDA is not available or fails.
    """

    def __init__(
        self,
        layers: PagedPlanes,
        slab: object,
        block_ids: IntArray,
        slab_blocks: IntArray,
        *,
        device: int = 0,
        path: str | None = None,
        max_thread_blocks: int = 0,
    ) -> None:
        memory = SlabMemory.of(slab)
        numbers = plan_numbers(layers, memory, block_ids, slab_blocks)
        self._num_layers = layers.num_layers
        self._native: _cuda.Transfer = _require_available().Transfer(
            owner=(layers, memory),
            device=_device(device),
            path=path,
            max_thread_blocks=max_thread_blocks,
            **numbers,
        )

    @property
    def path(self) -> str:
        """How the bytes go: one of `PATHS`."""
        return self._native.path

    @property
    def thread_blocks(self) -> int:
        """The most thread blocks that a kernel of it takes."""
        return self._native.thread_blocks

    @property
    def bytes(self) -> int:
        """What one copy moves."""
        return self._native.bytes

    def gather(self, stream: object = 0, *, layers_a_step: int | None = None) -> CudaHandle:
        """Enqueue a copy from the paged cache into the slab.

        Parameters
        ----------
        stream : int, or a stream of torch, cupy or cuda.core
            Its handle; 0 is CUDA's default stream.
        layers_a_step : int, optional
            Layers that are waited for together, each such step with launches of its own; all of
            them by default.
        """
        return self._copy("gather", stream, layers_a_step)

    def scatter(self, stream: object = 0, *, layers_a_step: int | None = None) -> CudaHandle:
        """Enqueue a copy from the slab into the paged cache; see `gather`."""
        return self._copy("scatter", stream, layers_a_step)

    def _copy(self, direction: str, stream: object, layers_a_step: int | None) -> CudaHandle:
        step = self._num_layers if layers_a_step is None else layers_a_step
        return CudaHandle(self._native.copy(direction, stream_number(stream), step), self)


def _dotted(version: int) -> str | None:
    """CUDA counts 12.8 as 12080."""
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


@cache
def _module() -> ModuleType | None:
    try:
        from kvcore import _cuda
    except ImportError:
        return None
    return _cuda


def _require_available() -> ModuleType:
    why, native = why_unavailable(), _module()
    if why is not None or native is None:
        raise RuntimeError(f"CUDA is not available: {why}")
    return native


@cache
def _device(number: int) -> _cuda.Device:
    device: _cuda.Device = _require_available().Device(number)
    return device

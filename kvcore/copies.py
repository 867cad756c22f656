"""Copies of blocks by the CPU: between an engine's paged cache and a slab."""

from __future__ import annotations

from kvcore._core import CopyJob, CopyThreads, Plan
from kvcore.codecs import Codec
from kvcore.layers import PagedLayers
from kvcore.planes import IntArray, SlabMemory, plan_numbers


class TransferPlan:
    """Which blocks of a paged cache and of a slab belong together: made once, used as often as
    wanted, in both directions. All arguments are checked here; no copy can leave either memory.

    Parameters
    ----------
    layers : PagedLayers
        The paged cache, in host memory.
    slab : HostSlab, SharedSlab, or uint8[num_blocks, block_bytes]
        A block takes the runs of a block of all layers, one after another.
    block_ids, slab_blocks : integers[n]
        The blocks of both that belong together; each once.
    codec : Transpose, Fp8 or Int8, optional
        How runs look in the slab, if not as they are; `slab_block_bytes` says how large its blocks
        have to be.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it.
    """

    def __init__(
        self,
        layers: PagedLayers,
        slab: object,
        block_ids: IntArray,
        slab_blocks: IntArray,
        *,
        codec: Codec | None = None,
    ) -> None:
        if not isinstance(layers, PagedLayers):
            raise TypeError(f"layers must be PagedLayers, got {type(layers).__name__}")
        if layers.device != "cpu":
            raise ValueError(
                f"layers must be in host memory, got {layers.device}; "
                "kvcore.device_copy has the copies of devices"
            )
        memory = SlabMemory.of(slab).host
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"codec must be a Codec, got {type(codec).__name__}")
        native = None if codec is None else codec.of(layers.run_bytes)
        run_bytes = None if native is None else native.slab_bytes
        numbers = plan_numbers(layers, memory, block_ids, slab_blocks, slab_run_bytes=run_bytes)
        self._plan = Plan(native, **numbers)
        self._memory = (layers, memory)

    @property
    def num_blocks(self) -> int:
        return self._plan.num_blocks

    @property
    def nbytes(self) -> int:
        """What one copy moves."""
        return self._plan.bytes

    def gather(self) -> None:
        """Copy from the paged cache into the slab, on the calling thread. Releases the GIL."""
        self._plan.copy(gathers=True)

    def scatter(self) -> None:
        """Copy from the slab into the paged cache, on the calling thread. Releases the GIL."""
        self._plan.copy(gathers=False)


class TransferHandle:
    """A copy under way. Keeps the memory of both sides. Dropping it gives up what has not begun and
    waits for the rest. Thread safe."""

    def __init__(self, job: CopyJob) -> None:
        self._job = job

    def done(self) -> bool:
        """Whether all is copied or given up, and the memory is free to use."""
        return self._job.done()

    def failed(self) -> bool:
        """Whether it is done and something was given up."""
        return self._job.failed()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until it is done; False when the time is over first."""
        return self._job.wait(timeout_s)

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        """Block until the blocks of a layer are there; layers come in order.

        False when the time is over first, or when they were given up.
        """
        return self._job.wait_layer(layer, timeout_s)

    def cancel(self) -> None:
        """Give up what has not begun. The memory is free once it is done."""
        self._job.cancel()


class CopyPool:
    """Threads that copy blocks, one copy after the other, layer after layer. Thread safe.

    Parameters
    ----------
    threads : int
        1 to 64.

    Raises
    ------
    TypeError, ValueError
        `threads` is not allowed, or the environment's ``KVCORE_CPU`` names no path of this machine.
    """

    def __init__(self, threads: int) -> None:
        self._threads = CopyThreads(threads)

    @property
    def num_threads(self) -> int:
        return self._threads.num_threads

    def gather(self, plan: TransferPlan) -> TransferHandle:
        """Start to copy from the paged cache into the slab."""
        return self._start(plan, gathers=True)

    def scatter(self, plan: TransferPlan) -> TransferHandle:
        """Start to copy from the slab into the paged cache."""
        return self._start(plan, gathers=False)

    def _start(self, plan: TransferPlan, *, gathers: bool) -> TransferHandle:
        if not isinstance(plan, TransferPlan):
            raise TypeError(f"plan must be a TransferPlan, got {type(plan).__name__}")
        return TransferHandle(self._threads.start(plan._plan, gathers, plan._memory))

"""Copies of blocks by any GPU that Triton and torch know: AMD, Intel, NVIDIA.

For devices that the CUDA module does not serve. Importing this takes torch and triton.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import monotonic, sleep
from typing import Any

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(
        "copies by Triton need torch and triton: pip install 'kvcore[triton]'"
    ) from error

from kvcore._core import plan_word_bytes
from kvcore.planes import IntArray, PagedPlanes, SlabMemory, plan_numbers

_UNIT_BYTES = 16 << 10  # what a program moves at a time: 4 loads of 16 bytes a thread
_NUM_WARPS = 8
_PROGRAMS_A_MULTIPROCESSOR = 4
_NAP_S = 50e-6


@triton.jit
def _copy_runs(
    plane_bases,
    paged_blocks,
    slab_blocks,
    slab,
    paged_stride,
    slab_stride,
    run_bytes,
    num_planes,
    num_units,
    units_a_run,
    gathers: tl.constexpr,
    word_bytes: tl.constexpr,
    unit_bytes: tl.constexpr,
):
    """Programs take units in turns: block after block, in it plane after plane."""
    step: tl.constexpr = 1 if word_bytes == 1 else 4
    word = tl.uint8 if word_bytes == 1 else tl.uint32
    for number in range(tl.program_id(0), num_units, tl.num_programs(0)):
        run = number // units_a_run
        block = run // num_planes
        plane = (run - block * num_planes).to(tl.int64)
        offset = (number - run * units_a_run).to(tl.int64) * unit_bytes
        paged = tl.load(plane_bases + plane) + tl.load(paged_blocks + block) * paged_stride + offset
        block_address = slab + tl.load(slab_blocks + block) * slab_stride
        packed = block_address + plane * run_bytes + offset
        words = tl.arange(0, unit_bytes // step)
        # The host knows by what all addresses and sizes can be divided.
        left = tl.multiple_of((run_bytes - offset) // step, word_bytes // step)
        from_paged = tl.multiple_of(paged.to(tl.pointer_type(word)), word_bytes) + words
        from_packed = tl.multiple_of(packed.to(tl.pointer_type(word)), word_bytes) + words
        if gathers:
            tl.store(from_packed, tl.load(from_paged, mask=words < left), mask=words < left)
        else:
            tl.store(from_paged, tl.load(from_packed, mask=words < left), mask=words < left)


# Copies that may be under way, with who owns their memory: also where nobody has a handle of them.
_lent: list[tuple[Any, TritonTransfer]] = []


def _let_go() -> None:
    """Forgets what is done."""
    _lent[:] = [(event, transfer) for event, transfer in _lent if not event.query()]


def _check_place(name: str, device: str, wanted: torch.device) -> None:
    place = torch.device(device)
    if place.type != wanted.type or (place.index or 0) != (wanted.index or 0):
        raise ValueError(f"{name} must be on {wanted}, got {place}")


def _is_pinned(memory: SlabMemory) -> bool:
    pinned = getattr(memory.owner, "is_pinned", False)
    return bool(pinned() if callable(pinned) else pinned)


class TritonHandle:
    """A copy that was enqueued. Keeps the memory of both sides until it is done."""

    def __init__(self, events: list[Any], layers_a_step: int, transfer: TritonTransfer) -> None:
        self._events = events
        self._layers_a_step = layers_a_step
        self._transfer = transfer

    def done(self) -> bool:
        """Whether all layers are in place."""
        return all(event.query() for event in self._events[-1:])

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until all layers are in place; False when the time is over first."""
        return _wait_for(self._events[-1:], timeout_s)

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        """Block until a layer is in place; False when the time is over first."""
        return _wait_for(self._event_of(layer), timeout_s)

    def failed(self) -> bool:
        """Whether the device failed."""
        try:
            self.done()
        except RuntimeError:
            return True
        return False

    def cancel(self) -> None:
        """Does nothing: what was enqueued on a stream cannot be taken back."""

    def hold_stream(self, stream: Any, layer: int) -> None:
        """Make a torch stream wait for a layer. Returns at once."""
        for event in self._event_of(layer):
            stream.wait_event(event)

    def _event_of(self, layer: int) -> list[Any]:
        if not 0 <= layer < self._transfer.num_layers:
            raise ValueError(
                f"layer must be from 0 to {self._transfer.num_layers - 1}, got {layer}"
            )
        step = layer // self._layers_a_step
        return self._events[step : step + 1]


class TritonTransfer:
    """Copies of some blocks between a paged cache on a GPU and a slab, made once and used often.

    Parameters
    ----------
    layers : PagedPlanes
        The paged cache, in the memory of `device`.
    slab : uint8[num_blocks, block_bytes] tensor, or SlabMemory
        In that memory, or pinned host memory that the device reaches under the same address.
    block_ids, slab_blocks : integers[n]
        The blocks of both that belong together; each once.
    device : torch.device or str
        ``"cuda:0"`` (AMD's too), ``"xpu:0"``; ``"cpu"`` with Triton's interpreter.
    max_programs : int
        The most programs that run at a time; 0 leaves it to us.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong or ids are out of range or there twice; nothing was copied.
    """

    def __init__(
        self,
        layers: PagedPlanes,
        slab: object,
        block_ids: IntArray,
        slab_blocks: IntArray,
        *,
        device: Any,
        max_programs: int = 0,
    ) -> None:
        memory = SlabMemory.of(slab)
        numbers = plan_numbers(layers, memory, block_ids, slab_blocks)
        self._word_bytes = plan_word_bytes(**numbers)
        if not isinstance(max_programs, int) or max_programs < 0:
            raise ValueError(f"max_programs must be an int of at least 0, got {max_programs!r}")
        self._device = torch.device(device)
        _check_place("layers", getattr(layers, "device", str(self._device)), self._device)
        if memory.device != "cpu" or self._device.type == "cpu":
            _check_place("slab", memory.device, self._device)
        elif not _is_pinned(memory):
            raise ValueError(
                f"slab must be on {self._device} or in pinned memory, and is in neither"
            )
        self._max_programs = max_programs or self._all_programs()
        self._numbers = numbers
        self._owners = (layers, memory)
        # Addresses and ids fit 63 bits; torch's arithmetic on unsigned numbers is scarce.
        self._bases, self._paged_blocks, self._slab_blocks = (
            torch.from_numpy(numbers[name].astype("int64")).to(self._device)
            for name in ("plane_bases", "block_ids", "slab_blocks")
        )

    @property
    def num_layers(self) -> int:
        return self._numbers["num_layers"]

    @property
    def bytes(self) -> int:
        """What one copy moves."""
        return len(self._paged_blocks) * len(self._bases) * self._numbers["run_bytes"]

    def gather(self, stream: Any = None, *, layers_a_step: int | None = None) -> TritonHandle:
        """Enqueue a copy from the paged cache into the slab.

        Parameters
        ----------
        stream : torch stream of the device, or its handle, optional
            The current one by default; 0 is the device's default stream.
        layers_a_step : int, optional
            Layers that are waited for together, a launch each step; all of them by default.
        """
        return self._copy(True, stream, layers_a_step)

    def scatter(self, stream: Any = None, *, layers_a_step: int | None = None) -> TritonHandle:
        """Enqueue a copy from the slab into the paged cache; see `gather`."""
        return self._copy(False, stream, layers_a_step)

    def _copy(self, gathers: bool, stream: Any, layers_a_step: int | None) -> TritonHandle:
        _let_go()
        step = self.num_layers if layers_a_step is None else layers_a_step
        if not isinstance(step, int) or step < 1:
            raise ValueError(f"layers_a_step must be an int of at least 1, got {layers_a_step!r}")
        planes_a_layer = len(self._bases) // self.num_layers
        events: list[Any] = []
        with self._on(stream):
            for first_layer in range(0, self.num_layers, step):
                layers = min(step, self.num_layers - first_layer)
                self._launch(gathers, first_layer * planes_a_layer, layers * planes_a_layer)
                if self._device.type != "cpu":
                    events.append(torch.get_device_module(self._device).Event())
                    events[-1].record()
        _lent.extend((event, self) for event in events[-1:])
        return TritonHandle(events, step, self)

    def _launch(self, gathers: bool, first_plane: int, num_planes: int) -> None:
        run_bytes = self._numbers["run_bytes"]
        units_a_run = -(-run_bytes // _UNIT_BYTES)
        num_units = len(self._paged_blocks) * num_planes * units_a_run
        if num_units == 0:
            return
        _copy_runs[(min(num_units, self._max_programs),)](
            self._bases[first_plane:],
            self._paged_blocks,
            self._slab_blocks,
            self._numbers["slab"] + first_plane * run_bytes,
            self._numbers["paged_stride"],
            self._numbers["slab_block_bytes"],
            run_bytes,
            num_planes,
            num_units,
            units_a_run,
            gathers=gathers,
            word_bytes=self._word_bytes,
            unit_bytes=_UNIT_BYTES,
            num_warps=_NUM_WARPS,
        )

    def _on(self, stream: Any) -> AbstractContextManager[Any]:
        """Launches go to the current stream of the current device."""
        if self._device.type == "cpu":
            return nullcontext()
        module = torch.get_device_module(self._device)
        if stream is None:
            stream = module.current_stream(self._device)
        elif stream == 0:
            stream = module.default_stream(self._device)
        elif isinstance(stream, int):
            if not hasattr(module, "ExternalStream"):
                raise TypeError(f"stream must be a torch stream of {self._device}, got an int")
            stream = module.ExternalStream(stream, device=self._device)
        stack: AbstractContextManager[Any] = module.stream(stream)
        return stack

    def _all_programs(self) -> int:
        if self._device.type == "cpu":
            return 1
        properties = torch.get_device_module(self._device).get_device_properties(self._device)
        multiprocessors: int = getattr(
            properties, "multi_processor_count", getattr(properties, "gpu_subslice_count", 1)
        )
        return multiprocessors * _PROGRAMS_A_MULTIPROCESSOR


def _wait_for(events: list[Any], timeout_s: float | None) -> bool:
    until = None if timeout_s is None else monotonic() + timeout_s
    while not all(event.query() for event in events):
        if until is not None and monotonic() >= until:
            return False
        sleep(_NAP_S)
    return True

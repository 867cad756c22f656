"""The GPU that checks and benchmarks run on, and one that is not there.

`DryGpu` does on the CPU, slowly, whatever `RealGpu` is asked for, so that every line above can be
run on a machine without a GPU. Nothing that it measures means anything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module, util
from time import perf_counter
from typing import Any, Protocol

import torch

from kvcore import cuda
from kvcore._core import plan_word_bytes
from kvcore.planes import SlabMemory, plan_numbers

_HEAD_START_CYCLES = 400_000  # 0.2 ms


class Gpu(Protocol):
    name: str
    device: str
    is_real: bool
    has_cupy: bool
    multiprocessors: int
    has_bulk: bool

    def empty(self, num_bytes: int) -> torch.Tensor:
        """uint8[num_bytes] in its memory, aligned to 256 bytes."""

    def pinned(self, num_bytes: int) -> torch.Tensor: ...
    def tensor(self, values: Any) -> torch.Tensor: ...
    def new_stream(self) -> Any: ...
    def on(self, stream: Any) -> AbstractContextManager[Any]: ...
    def current_stream(self) -> Any: ...
    def synchronize(self) -> None: ...
    def time_us(self, stream: Any, run: Callable[[], object]) -> float:
        """From the stream's reaching `run` until all is done that it enqueued there."""

    def time_both_us(self, *work: tuple[Any, Callable[[], object]]) -> list[float]:
        """The same of several streams at once, in the order in which they are given work."""

    def capture(self, stream: Any, run: Callable[[], object]) -> Callable[[], None]:
        """A graph of what `run` enqueues, as a function that replays it on the current stream."""

    def transfer(self, *arguments: Any, **options: Any) -> Any: ...
    def take(self, source: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        """CuPy's take along the first axis, on the current stream."""

    def memcpy(self, to: int, source: int, num_bytes: int, stream: Any) -> None:
        """One cudaMemcpyAsync between any two places."""


class RealGpu:
    is_real = True
    device = "cuda:0"

    def __init__(self) -> None:
        self.has_cupy = util.find_spec("cupy") is not None
        torch.cuda.init()
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self.multiprocessors = properties.multi_processor_count
        self.has_bulk = properties.major >= 9

    def empty(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device="cuda")

    def pinned(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values).cuda()

    def new_stream(self) -> Any:
        return torch.cuda.Stream()

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.cuda.stream(stream)
        return context

    def current_stream(self) -> Any:
        return torch.cuda.current_stream()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def time_us(self, stream: Any, run: Callable[[], object]) -> float:
        return self.time_both_us((stream, run))[0]

    def time_both_us(self, *work: tuple[Any, Callable[[], object]]) -> list[float]:
        torch.cuda.synchronize()
        pairs = []
        for stream, run in work:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.cuda.stream(stream):
                # While the stream sleeps, what `run` enqueues gets ahead of it.
                torch.cuda._sleep(_HEAD_START_CYCLES)
                start.record(stream)
                run()
                end.record(stream)
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [1000.0 * float(start.elapsed_time(end)) for start, end in pairs]

    def capture(self, stream: Any, run: Callable[[], object]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        replay: Callable[[], None] = graph.replay
        return replay

    def transfer(self, *arguments: Any, **options: Any) -> Any:
        return cuda.CudaTransfer(*arguments, **options)

    def take(self, source: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        cupy = import_module("cupy")
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            cupy.take(cupy.asarray(source), cupy.asarray(rows), 0, cupy.asarray(out))

    def memcpy(self, to: int, source: int, num_bytes: int, stream: Any) -> None:
        runtime = import_module("cupy").cuda.runtime
        runtime.memcpyAsync(to, source, num_bytes, runtime.memcpyDefault, stream.cuda_stream)


class _DryStream:
    cuda_stream = 0

    def synchronize(self) -> None:
        pass

    def wait_stream(self, other: _DryStream) -> None:
        pass


class DryGpu:
    name = "none: a dry run on the CPU"
    device = "cpu"
    is_real = False
    has_cupy = True  # numpy and memmove stand in
    multiprocessors = 4
    has_bulk = True

    def empty(self, num_bytes: int) -> torch.Tensor:
        whole = torch.zeros(num_bytes + 256, dtype=torch.uint8)
        start = -whole.data_ptr() % 256
        return whole[start : start + num_bytes]

    pinned = empty

    def tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values)

    def new_stream(self) -> Any:
        return _DryStream()

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def current_stream(self) -> Any:
        return _DryStream()

    def synchronize(self) -> None:
        pass

    def time_us(self, stream: Any, run: Callable[[], object]) -> float:
        return self.time_both_us((stream, run))[0]

    def time_both_us(self, *work: tuple[Any, Callable[[], object]]) -> list[float]:
        times = []
        for _, run in work:
            start = perf_counter()
            run()
            times.append(1e6 * (perf_counter() - start))
        return times

    def capture(self, stream: Any, run: Callable[[], object]) -> Callable[[], None]:
        def replay() -> None:
            run()

        return replay

    def transfer(self, *arguments: Any, **options: Any) -> Any:
        return _DryTransfer(*arguments, **options)

    def take(self, source: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        source.numpy().take(rows.numpy(), 0, out.numpy())

    def memcpy(self, to: int, source: int, num_bytes: int, stream: Any) -> None:
        ctypes.memmove(to, source, num_bytes)


class _DryTransfer:
    """A `CudaTransfer` by a loop of memmove."""

    def __init__(
        self,
        layers: Any,
        slab: Any,
        block_ids: Any,
        slab_blocks: Any,
        *,
        path: str | None = None,
        max_thread_blocks: int = 0,
    ) -> None:
        self._numbers = plan_numbers(layers, SlabMemory.of(slab), block_ids, slab_blocks)
        if plan_word_bytes(**self._numbers) < 16 and path == "bulk":
            raise ValueError("path must be one that can do this copy, got 'bulk'")
        self.path = path or "load_store"
        self.thread_blocks = max_thread_blocks or 8
        runs = len(self._numbers["plane_bases"]) * len(self._numbers["block_ids"])
        self.bytes = runs * self._numbers["run_bytes"]

    def gather(self, stream: Any = 0, *, layers_a_step: int | None = None) -> _DryTransfer:
        return self._copy(lambda paged, packed: (packed, paged))

    def scatter(self, stream: Any = 0, *, layers_a_step: int | None = None) -> _DryTransfer:
        return self._copy(lambda paged, packed: (paged, packed))

    def _copy(self, to_and_from: Callable[[int, int], tuple[int, int]]) -> _DryTransfer:
        numbers = self._numbers
        size = numbers["run_bytes"]
        for block, place in zip(numbers["block_ids"], numbers["slab_blocks"], strict=True):
            for plane, base in enumerate(numbers["plane_bases"]):
                paged = int(base) + int(block) * numbers["paged_stride"]
                packed = numbers["slab"] + int(place) * numbers["slab_block_bytes"] + plane * size
                ctypes.memmove(*to_and_from(paged, packed), size)
        return self

    def done(self) -> bool:
        return True

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        return True

    def hold_stream(self, stream: Any, layer: int) -> None:
        pass


def find_gpu(dry: bool) -> Gpu:
    """The GPU; `dry`, or one that is not there."""
    if dry:
        return DryGpu()
    why = cuda.why_unavailable()
    if why is not None:
        raise SystemExit(f"there is no GPU to run on: {why}; --dry-run needs none")
    return RealGpu()

"""How much slower a matrix product gets beside copies, by the thread blocks that these take."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.cases import Case, Job, Pools
from benchmarks.gpu.contenders import ours
from benchmarks.gpu.machines import Gpu

_CAPS = {"device": (8, 33, 132, 264), "host": (1, 4, 8, 16, 32)}
_PRODUCTS = 30
_ROUNDS = 3


def slowdowns(gpu: Gpu, case: Case, pools: Pools) -> Iterator[dict[str, Any]]:
    """A row a place and direction: how many times longer products take, and what copies reach."""
    size = 8192 if gpu.is_real else 16
    dtype = torch.bfloat16 if gpu.is_real else torch.float32
    left, right, product = (
        gpu.tensor(torch.randn(size, size, dtype=torch.float32)).to(dtype) for _ in range(3)
    )
    multiplying, copying = gpu.new_stream(), gpu.new_stream()
    gpu.synchronize()

    def multiply() -> None:
        for _ in range(_PRODUCTS):
            torch.mm(left, right, out=product)

    gpu.time_us(multiplying, multiply)
    for place in ("device", "host"):
        job = Job(gpu, case, pools, place)
        gpu.synchronize()
        for direction in ("gather", "scatter"):
            slowdown, speeds = {}, {}
            for cap in _CAPS[place]:
                for path in ours(gpu, job, direction, copying, cap):
                    if path.name == "batch" and cap != _CAPS[place][0]:
                        continue  # takes no thread blocks
                    name = f"{path.name}, {cap}"
                    alone_us = gpu.time_us(multiplying, multiply)
                    copy_us = gpu.time_us(copying, path.run)
                    copies = int(alone_us / copy_us) + 1
                    times = [
                        _beside(gpu, multiplying, multiply, copying, path.run, copies)
                        for _ in range(_ROUNDS)
                    ]
                    slowdown[name] = round(median(t for t, _ in times) / alone_us, 3)
                    copies_us = median(c for _, c in times)
                    speeds[name] = round(case.payload_bytes / copies_us / 1e3, 1)
            yield {
                "bench": "beside",
                "case": f"{direction} {place} beside products of {size}: {case}",
                "place": place,
                "direction": direction,
                "slowdown": slowdown,
                "paths_gb_s": speeds,
            }


def _beside(
    gpu: Gpu, multiplying: Any, multiply: Any, copying: Any, copy: Any, copies: int
) -> tuple[float, float]:
    """Microseconds of the products with copies under way, and of one of the copies."""

    def copy_all() -> None:
        for _ in range(copies):
            copy()

    copies_us, products_us = gpu.time_both_us((copying, copy_all), (multiplying, multiply))
    return products_us, copies_us / copies

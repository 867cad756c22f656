"""Random draws that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log
from statistics import NormalDist

import numpy as np

_MAX_TOKENS = 128_000


@dataclass(frozen=True, slots=True)
class Popularity:
    """Zipf: the item of rank r (from 0) is asked for in proportion to (r + 1) ** -exponent."""

    cumulative: tuple[float, ...]

    @classmethod
    def zipf(cls, num_items: int, exponent: float) -> Popularity:
        return cls(tuple(accumulate((rank + 1) ** -exponent for rank in range(num_items))))


class Dice:
    """Draws from distributions by inverting them, one uniform number a draw.

    Only `Generator.random` is used: NumPy has kept its stream, its other samplers may change.
    """

    def __init__(self, seed: int) -> None:
        self._uniform = np.random.Generator(np.random.PCG64(seed)).random
        self._normal = NormalDist()

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def exponential(self, mean: float) -> float:
        return -mean * log(1.0 - self._uniform())

    def lognormal(self, median: float, sigma: float) -> float:
        quantile = min(max(self._uniform(), 1e-12), 1.0 - 1e-12)
        return median * exp(sigma * self._normal.inv_cdf(quantile))

    def tokens(self, median: float, sigma: float) -> int:
        """A lognormal length, at least 1 and at most 128,000."""
        return max(1, min(_MAX_TOKENS, round(self.lognormal(median, sigma))))

    def rank(self, popularity: Popularity) -> int:
        return bisect_left(popularity.cumulative, self._uniform() * popularity.cumulative[-1])

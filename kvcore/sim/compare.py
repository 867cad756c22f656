"""Policies of a sweep beside LRU and the optimum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvcore.sim.equal import LRU, EqualCapacity
from kvcore.sim.optimum import OPTIMUM
from kvcore.sim.replay import ReplayResult


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a sweep found on one trace, LRU and the optimum among the policies.

    All rows are by policy, in the order of the sweep, and have a figure a capacity, the smallest
    first.

    Attributes
    ----------
    results : by policy, then capacity
    equals : the same
    """

    results: Mapping[str, Mapping[str, ReplayResult]]
    equals: Mapping[str, Mapping[str, EqualCapacity]]

    @classmethod
    def of(
        cls, trace: str, results: Iterable[ReplayResult], equals: Iterable[EqualCapacity]
    ) -> Comparison:
        """Of the results of a sweep, and of `equal_capacities` for them, those on one trace."""
        mine = [result for result in results if result.trace == trace]
        found: dict[str, dict[str, ReplayResult]] = {result.policy: {} for result in mine}
        for result in sorted(mine, key=lambda result: result.capacity_blocks):
            found[result.policy][result.capacity] = result
        searched = {(e.policy, e.capacity): e for e in equals if e.trace == trace}
        return cls(
            results=found,
            equals={
                policy: {capacity: searched[policy, capacity] for capacity in row}
                for policy, row in found.items()
            },
        )

    @property
    def capacities(self) -> list[str]:
        return list(self.results[LRU])

    def hit_ratios(self) -> dict[str, list[float]]:
        return {p: [r.token_hit_ratio for r in row.values()] for p, row in self.results.items()}

    def p90_s(self) -> dict[str, list[float]]:
        return {p: [r.ttft.p90_s for r in row.values()] for p, row in self.results.items()}

    def less(self) -> dict[str, list[float]]:
        """Share of LRU's capacity that a policy does without and finds as much."""
        return {p: [equal.less for equal in row.values()] for p, row in self.equals.items()}

    def gaps(self) -> dict[str, list[float | None]]:
        """Share of the gap between LRU and the optimum that is closed; None where there is none."""
        ratios = self.hit_ratios()
        return {
            policy: [
                (ratio - low) / (high - low) if high > low else None
                for ratio, low, high in zip(row, ratios[LRU], ratios[OPTIMUM], strict=True)
            ]
            for policy, row in ratios.items()
        }

    def faster(self) -> dict[str, list[float]]:
        """By how much the p90 of the time to first token is below LRU's, as a share of that."""
        p90_s = self.p90_s()
        return {
            policy: [
                1 - mine / lru if lru > 0 else 0.0
                for mine, lru in zip(row, p90_s[LRU], strict=True)
            ]
            for policy, row in p90_s.items()
        }

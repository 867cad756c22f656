"""`kvcore bench evict`: every eviction policy, touching and replacing blocks, and its memory.

A full cache of chains of 128 blocks that have grown turn by turn, in spans of 16. Calls are those
of an engine, and in the time are all of them, with what Python adds:

- touch: acquire, release and finish of whole chains that are there, drawn by Zipf's law (exponent
  0.8), 32 chains a round.
- replace: reserve, commit and finish of 32 new chains a round, each in one span, after as many
  blocks as the cache holds have been replaced, so that ghosts are there. A policy may also turn new
  blocks away.
- memory: when five times as many blocks as the cache holds have been replaced. Of the process, by
  its anonymous pages; and as `stats().metadata_bytes` tells.

libCacheSim is asked for the same blocks in the same order as single objects, named by 64-bit
numbers, in its own loop in C. It has been filled once, without the turns before, and its memory is
that after one replacement of all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kvcore import POLICIES, PrefixCache, RequestInfo, Reservation
from kvcore.bench.growth import Chains
from kvcore.bench.harness import (
    Case,
    Contender,
    Row,
    always,
    check,
    in_new_process,
    make_row,
    measure,
    resident_bytes,
)
from kvcore.bench.peers import (
    CacheSimulator,
    Hashes,
    arrivals,
    grown_cache,
    numbers_of,
    random_chains,
)

_CHAIN_BLOCKS = 128
_SPAN_BLOCKS = 16
_ROUND_CHAINS = 32
_ROUND_BLOCKS = _ROUND_CHAINS * _CHAIN_BLOCKS
_ZIPF_EXPONENT = 0.8
_REPLACED_BEFORE_MEMORY = 5
_OUTPUT_TOKENS = 100


def run(quick: bool) -> Iterator[Row]:
    sizes, rounds = ((1_024,), 3) if quick else ((100_096, 10_000_000), 51)
    for num_blocks in sizes:
        work = _Work.draw(num_blocks, rounds)
        for policy in POLICIES:
            full = _FullCache(policy, work)
            yield full.touch()
            full.replace_all()
            yield full.replace()
            del full  # the next one gets its memory
            yield from _memory(policy, num_blocks)


@dataclass(frozen=True, slots=True)
class _Work:
    """What all policies are asked for, chains in order: uint8[..., chain blocks, 16]."""

    resident: Hashes
    touched: Hashes  # a round in each first index
    replacing: Hashes
    new: Hashes  # a round in each first index

    @classmethod
    def draw(cls, num_blocks: int, rounds: int) -> _Work:
        num_chains = num_blocks // _CHAIN_BLOCKS
        random = np.random.default_rng(3)
        share = np.arange(1, num_chains + 1) ** -_ZIPF_EXPONENT
        ranks = random.choice(num_chains, (rounds, _ROUND_CHAINS), p=share / share.sum())
        resident = random_chains(0, num_chains, _CHAIN_BLOCKS)
        new = random_chains(2, rounds * _ROUND_CHAINS, _CHAIN_BLOCKS)
        return cls(
            resident=resident,
            touched=resident[random.permutation(num_chains)[ranks]],
            replacing=random_chains(1, num_chains, _CHAIN_BLOCKS),
            new=new.reshape(rounds, _ROUND_CHAINS, _CHAIN_BLOCKS, 16),
        )


class _FullCache:
    """A policy at work on all of it, beside libCacheSim where that has the policy."""

    def __init__(self, policy: str, work: _Work) -> None:
        self._policy = policy
        self._work = work
        self._requests = arrivals()
        self._cache = grown_cache(work.resident, _SPAN_BLOCKS, policy, self._requests)
        later = [numbers_of(chains) for chains in (work.touched, work.replacing, work.new)]
        self._simulator = CacheSimulator.find(
            policy, numbers_of(work.resident), np.concatenate(later), table_fits=True
        )
        self._next_number = work.resident.size // 16

    def touch(self) -> Row:
        def touch(batch: list[tuple[Hashes, RequestInfo]]) -> int:
            found = 0
            for hashes, request in batch:
                lease = self._cache.acquire(hashes, request)
                found += lease.num_blocks
                lease.release()
                self._cache.finish(request, _OUTPUT_TOKENS)
            return found

        touched = self._work.touched
        ours = Contender(touch, lambda i: self._with_requests(touched[i]), always(_ROUND_BLOCKS))
        return measure(self._case("touch", ours, misses=0.0))

    def replace_all(self) -> None:
        for chain in self._work.replacing:
            _put(self._cache, chain, next(self._requests))
        if self._simulator is not None:
            num_blocks = self._work.replacing.size // 16
            answer = self._simulator.run(self._next_number, num_blocks)
            check(f"evict, {self._policy}: misses of libCacheSim", answer, (1.0, 1.0))
            self._next_number += num_blocks

    def replace(self) -> Row:
        def replace(batch: list[tuple[Hashes, RequestInfo]]) -> list[Reservation]:
            return [_put(self._cache, hashes, request) for hashes, request in batch]

        def came_and_left(reservations: list[Reservation]) -> tuple[int, int]:
            """Blocks that were asked for, and how many more came than left."""
            came = sum(len(reservation.new_positions) for reservation in reservations)
            left = sum(len(reservation.evicted) for reservation in reservations)
            return sum(len(reservation.states) for reservation in reservations), came - left

        new = self._work.new
        expected = always((_ROUND_BLOCKS, 0))
        ours = Contender(replace, lambda i: self._with_requests(new[i]), expected, came_and_left)
        return measure(self._case("replace", ours, misses=1.0))

    def _with_requests(self, chains: Hashes) -> list[tuple[Hashes, RequestInfo]]:
        return [(chain.copy(), next(self._requests)) for chain in chains]

    def _case(self, what: str, ours: Contender, misses: float) -> Case:
        rounds = len(self._work.new)
        peers = {}
        if (simulator := self._simulator) is not None:
            start = self._next_number
            peers[CacheSimulator.name(self._policy)] = Contender(
                lambda number: simulator.run(number, _ROUND_BLOCKS),
                lambda i: start + i * _ROUND_BLOCKS,
                always((misses, misses)),
            )
            self._next_number += rounds * _ROUND_BLOCKS
        name = f"{self._policy}: {what}, {self._cache.num_blocks:,} resident"
        return Case("evict", name, "ns/block", ours, rounds, peers, ns_per_unit=_ROUND_BLOCKS)


def _put(cache: PrefixCache, hashes: Hashes, request: RequestInfo) -> Reservation:
    reservation = cache.reserve(hashes, request)
    reservation.commit()
    cache.finish(request, _OUTPUT_TOKENS)
    return reservation


def _memory(policy: str, num_blocks: int) -> Iterator[Row]:
    ours = in_new_process(__spec__.name, "kvcore", policy, num_blocks)
    peers = {}
    if CacheSimulator.has(policy):
        theirs = in_new_process(__spec__.name, "libCacheSim", policy, num_blocks)
        peers[CacheSimulator.name(policy)] = theirs["process"]
    for what, others in (("process", peers), ("metadata_bytes", {})):
        name = f"{policy}: memory, {what}, {num_blocks:,} resident"
        yield make_row("evict", name, "bytes/block", ours[what], others)


def _measure_kvcore(policy: str, num_blocks: int) -> dict[str, float]:
    chains = random_chains(0, num_blocks // _CHAIN_BLOCKS, _CHAIN_BLOCKS)
    others = Chains(_CHAIN_BLOCKS)
    before = resident_bytes()
    requests = arrivals()
    cache = grown_cache(chains, _SPAN_BLOCKS, policy, requests)
    for chain in others.take(_REPLACED_BEFORE_MEMORY * num_blocks):
        _put(cache, chain, next(requests))
    stats = cache.stats()
    check(f"evict, {policy}: used blocks of a full cache", stats.used_blocks, num_blocks)
    return {
        "process": (resident_bytes() - before) / num_blocks,
        "metadata_bytes": stats.metadata_bytes / num_blocks,
    }


def _measure_simulator(policy: str, num_blocks: int) -> dict[str, float]:
    numbers = numbers_of(random_chains(0, 2 * num_blocks, 1))
    before = resident_bytes()
    simulator = CacheSimulator.find(
        policy, numbers[:num_blocks], numbers[num_blocks:], table_fits=True
    )
    if simulator is None:
        raise SystemExit(f"libCacheSim has no {policy}")
    simulator.run(num_blocks, num_blocks)
    return {"process": (resident_bytes() - before) / num_blocks}


_MEASURES = {"kvcore": _measure_kvcore, "libCacheSim": _measure_simulator}

if __name__ == "__main__":
    who, policy, num_blocks = sys.argv[1:]
    print(json.dumps(_MEASURES[who](policy, int(num_blocks))))

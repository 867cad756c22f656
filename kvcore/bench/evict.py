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
from collections.abc import Iterator, Sequence

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
_ZIPF_EXPONENT = 0.8
_REPLACED_BEFORE_MEMORY = 5
_OUTPUT_TOKENS = 100
# Time of arrival from which requests come to a full cache: after all that filled it.
_LATER_US = 1 << 50

Batch = Sequence[tuple[Hashes, RequestInfo]]


def run(quick: bool) -> Iterator[Row]:
    sizes, rounds = ((1_024,), 3) if quick else ((100_096, 10_000_000), 51)
    for num_blocks in sizes:
        work = _Work(num_blocks, rounds)
        for policy in POLICIES:
            yield from work.measure(policy)
            yield from _memory(policy, num_blocks)


class _Work:
    """What is asked for, the same of all policies.

    Round `i` touches `chains[touched[i]]`; in a later one come `new_chains[i]`.
    """

    def __init__(self, num_blocks: int, rounds: int) -> None:
        num_chains = num_blocks // _CHAIN_BLOCKS
        random = np.random.default_rng(0)
        self.rounds = rounds
        self.chains = random_chains(0, num_chains, _CHAIN_BLOCKS)
        self.replacing = random_chains(1, num_chains, _CHAIN_BLOCKS)
        self.new_chains = random_chains(2, rounds * _ROUND_CHAINS, _CHAIN_BLOCKS).reshape(
            rounds, _ROUND_CHAINS, _CHAIN_BLOCKS, 16
        )
        share = np.arange(1, num_chains + 1) ** -_ZIPF_EXPONENT
        self.touched = random.permutation(num_chains)[
            random.choice(num_chains, (rounds, _ROUND_CHAINS), p=share / share.sum())
        ]

    def measure(self, policy: str) -> Iterator[Row]:
        cache = grown_cache(self.chains, _SPAN_BLOCKS, policy)
        requests = arrivals(_LATER_US)
        round_blocks = _ROUND_CHAINS * _CHAIN_BLOCKS
        touched = self.chains[self.touched]
        simulator = CacheSimulator.find(
            policy,
            numbers_of(self.chains),
            np.concatenate([numbers_of(x) for x in (touched, self.replacing, self.new_chains)]),
            table_fits=True,
        )

        def batch(chains: Hashes) -> Batch:
            return [(chain.copy(), next(requests)) for chain in chains]

        def touch(batch: Batch) -> int:
            found = 0
            for hashes, request in batch:
                lease = cache.acquire(hashes, request)
                found += lease.num_blocks
                lease.release()
                cache.finish(request, _OUTPUT_TOKENS)
            return found

        def replace(batch: Batch) -> list[Reservation]:
            return [_put(cache, hashes, request) for hashes, request in batch]

        def replaced(reservations: list[Reservation]) -> tuple[int, int]:
            """Blocks that were asked for, and how many more came than left."""
            came = sum(len(r.new_positions) for r in reservations)
            left = sum(len(r.evicted) for r in reservations)
            return sum(len(r.states) for r in reservations), came - left

        def case(what: str, ours: Contender, start: int, misses: float) -> Case:
            peers = {}
            if simulator is not None:
                first = len(self.chains) * _CHAIN_BLOCKS + start
                peers[CacheSimulator.name(policy)] = Contender(
                    lambda at: simulator.run(at, round_blocks),
                    lambda i: first + i * round_blocks,
                    always((misses, misses)),
                )
            name = f"{policy}: {what}, {cache.num_blocks:,} resident"
            return Case(
                "evict", name, "ns/block", ours, self.rounds, peers, ns_per_unit=round_blocks
            )

        ours = Contender(touch, lambda i: batch(touched[i]), always(round_blocks))
        yield measure(case("touch", ours, 0, 0.0))
        for chain in self.replacing:
            _put(cache, chain, next(requests))
        replacing_blocks = len(self.replacing) * _CHAIN_BLOCKS
        touched_blocks = self.rounds * round_blocks
        if simulator is not None:
            start = len(self.chains) * _CHAIN_BLOCKS + touched_blocks
            answer = simulator.run(start, replacing_blocks)
            check(f"evict, {policy}: libCacheSim's misses", answer, (1.0, 1.0))
        ours = Contender(
            replace, lambda i: batch(self.new_chains[i]), always((round_blocks, 0)), replaced
        )
        yield measure(case("replace", ours, touched_blocks + replacing_blocks, 1.0))


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
    cache = grown_cache(chains, _SPAN_BLOCKS, policy)
    requests = arrivals(_LATER_US)
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

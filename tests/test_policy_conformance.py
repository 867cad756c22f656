"""What every eviction policy promises, whatever its order; later ones join by themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes, chain_of, packed, rows
from models.small_traces import TRACES, Trace, chat_trace, hashes, misses, rag_trace, serve
from models.traces import build

from kvcore import POLICIES, BlockState, Lease, PrefixCache, RequestInfo, Reservation
from kvcore.sim import Capacity, optimum

pytestmark = pytest.mark.parametrize("policy", POLICIES)


# --- Any life -----------------------------------------------------------------------------------


class Life:
    """A seeded life of a cache. Grows, forks, pins and breaks off, and checks after each step:

    what is pinned or in flight does not leave, only leaves leave, children before their parents,
    and what came and did not leave is there.
    """

    def __init__(self, policy: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cache = PrefixCache(self.rng.choice([1, 5, 20, 60]), policy)
        self.prompts: list[list[int]] = [[token] * self.rng.randint(1, 8) for token in range(4)]
        self.leases: list[tuple[Lease, list[bytes]]] = []
        self.reservations: list[tuple[Reservation, list[bytes]]] = []  # with their new blocks
        self.owned: dict[bytes, int] = {}  # blocks, committed or in flight -> their id
        self.parents: dict[bytes, bytes] = {}
        self.request = RequestInfo()

    def run(self, steps: int) -> list[Any]:
        """Answers all that could be seen."""
        seen: list[Any] = []
        for _ in range(steps):
            if self.rng.random() < 0.7:
                self.request = RequestInfo()
            step = self.rng.choice([self.serve, self.serve, self.pin, self.write, self.let_go])
            seen += step(self._prompt())
            seen.append(self.cache.stats().evictions)
            self._check()
        return seen

    def _prompt(self) -> list[int]:
        """An old prompt, one that grows out of an old one, or one that forks off it."""
        prompt = self.rng.choice(self.prompts)
        kind = self.rng.random()
        if kind < 0.3:
            prompt = prompt + [self.rng.randint(0, 5)] * self.rng.randint(1, 6)
        elif kind < 0.5:
            prompt = [*prompt[: self.rng.randint(0, len(prompt))], self.rng.randint(0, 99)]
        if len(prompt) > 80:
            prompt = prompt[:2]
        self.prompts[self.rng.randrange(len(self.prompts))] = prompt
        if len(self.prompts) < 12:
            self.prompts.append(prompt)
        return prompt

    def serve(self, prompt: list[int]) -> list[Any]:
        chain = chain_of(prompt)
        with self.cache.acquire(packed(chain), self.request) as lease:
            self.leases.append((lease, chain[: lease.num_blocks]))
            reservation, seen = self._reserve(chain)
            reservation.commit()
            self.leases.pop()
        self.cache.finish(self.request, len(prompt))
        return [lease.num_blocks, *seen]

    def pin(self, prompt: list[int]) -> list[Any]:
        chain = chain_of(prompt)
        lease = self.cache.acquire(packed(chain), self.request)
        assert lease.block_ids.tolist() == [
            self.owned[block] for block in chain[: lease.num_blocks]
        ]
        self.leases.append((lease, chain[: lease.num_blocks]))
        return [lease.num_blocks]

    def write(self, prompt: list[int]) -> list[Any]:
        chain = chain_of(prompt)
        reservation, seen = self._reserve(chain)
        new = [chain[position] for position in reservation.new_positions.tolist()]
        count = self.rng.randint(0, len(new))
        reservation.commit(count)
        self.reservations.append((reservation, new[count:]))
        return seen

    def let_go(self, prompt: list[int]) -> list[Any]:
        """Of a lease, of a reservation that was not committed, and of what is one too many."""
        if self.leases:
            self.leases.pop(self.rng.randrange(len(self.leases)))
        if self.reservations:
            reservation, given_up = self.reservations.pop(0)
            reservation.abort()
            for block in given_up:
                del self.owned[block]
        return []

    def _reserve(self, chain: list[bytes]) -> tuple[Reservation, list[Any]]:
        before = dict(self.owned)
        reservation = self.cache.reserve(packed(chain), self.request)
        evicted = rows(reservation.evicted.hashes)
        assert reservation.evicted.block_ids.tolist() == [self.owned.pop(b) for b in evicted]
        self._check_evicted(evicted, chain, before)
        self.parents.update(zip(chain, [b"", *chain], strict=False))
        for block, state in zip(chain, reservation.states.tolist(), strict=True):
            if state != BlockState.BYPASSED:  # as what lies below a gap without room may be
                assert (block in before) == (state != BlockState.NEW)
        for position, block_id in zip(
            reservation.new_positions.tolist(), reservation.block_ids.tolist(), strict=True
        ):
            assert block_id not in self.owned.values()
            self.owned[chain[position]] = block_id
        return reservation, [reservation.states.tolist(), evicted]

    def _check_evicted(
        self, evicted: list[bytes], chain: list[bytes], before: dict[bytes, int]
    ) -> None:
        held = {block for _, blocks in self.leases for block in blocks}
        held |= {block for _, blocks in self.reservations for block in blocks}
        assert held.isdisjoint(evicted)
        # What the chain itself needs: all of it that was asked for and there from the start on.
        assert not set(evicted) & {block for block in chain if block in before}
        left: set[bytes] = set()
        for block in evicted:
            children = {child for child in before if self.parents[child] == block}
            assert children <= left, "a block left before what hangs from it"
            left.add(block)

    def _check(self) -> None:
        self.cache.check_invariants()
        stats = self.cache.stats()
        assert stats.used_blocks == len(self.owned)
        assert stats.used_blocks + stats.free_blocks == stats.num_blocks
        for prompt in self.prompts[:3]:
            chain = chain_of(prompt)
            there = [block in self.owned for block in chain]
            whole = there.index(False) if False in there else len(there)
            assert self.cache.match(packed(chain)) <= whole


@pytest.mark.parametrize("seed", range(6))
def test_any_life(policy: str, seed: int) -> None:
    Life(policy, seed).run(250)


def test_two_runs_are_equal(policy: str) -> None:
    assert Life(policy, 77).run(400) == Life(policy, 77).run(400)


# --- Whole traces -------------------------------------------------------------------------------


def num_distinct(trace: Trace) -> int:
    return len({tuple(tokens[: end + 1]) for tokens in trace for end in range(len(tokens))})


@pytest.mark.parametrize("trace", TRACES)
def test_what_fits_is_missed_once(trace: str, policy: str) -> None:
    distinct = num_distinct(TRACES[trace])
    assert misses(TRACES[trace], distinct, policy) == distinct


@pytest.fixture(scope="module")
def generated() -> dict[str, Trace]:
    return TRACES | {"chat again": chat_trace(11), "rag again": rag_trace(12)}


@pytest.mark.parametrize("trace", [*TRACES, "chat again", "rag again"])
def test_no_policy_finds_more_than_the_optimum(
    trace: str, policy: str, generated: dict[str, Trace]
) -> None:
    requests = generated[trace]
    references = sum(map(len, requests))
    for num_blocks in (3, 10, 30, 60, 120, 300):
        best = optimum(build(requests), Capacity(str(num_blocks))).block_hit_ratio * references
        assert references - misses(requests, num_blocks, policy) <= round(best)


def test_a_chain_longer_than_the_cache_keeps_its_first_blocks(policy: str) -> None:
    cache = PrefixCache(20, policy)
    assert [serve(cache, [7] * 50) for _ in range(5)] == [0, 20, 20, 20, 20]


def test_what_is_asked_for_all_the_time_stays(policy: str) -> None:
    """A prompt that comes after every other one, and a stream of prompts that never come again."""
    cache = PrefixCache(30, policy)
    found = 0
    for fresh in range(100, 300):
        found += serve(cache, [1] * 8)
        serve(cache, [fresh] * 4)
    assert found > 0.85 * 200 * 8  # tlru gives up the last block of eight


def test_a_new_prompt_finds_room_in_a_cache_full_of_old_ones(policy: str) -> None:
    """Whatever was popular once: what is asked for now, again and again, gets in."""
    cache = PrefixCache(40, policy)
    for _ in range(30):
        for old in range(4):
            serve(cache, [old] * 10)
    for _ in range(20):
        serve(cache, [9] * 10)
    assert serve(cache, [9] * 10) == 10


# --- One request --------------------------------------------------------------------------------


def test_touches_of_one_request_are_one_use(policy: str) -> None:
    """A cache in which requests touch what they use ten times evicts the same, block for block."""
    rng = random.Random(5)
    once, often = PrefixCache(40, policy), PrefixCache(40, policy)
    prompts = [[token] * rng.randint(1, 6) + [9] * rng.randint(0, 3) for token in range(25)]
    for _ in range(600):
        prompt = hashes(rng.choice(prompts))
        evicted = []
        for cache, touches in ((once, 0), (often, 10)):
            request = RequestInfo()
            lease = cache.acquire(prompt, request)
            reservation = cache.reserve(prompt, request)
            reservation.commit()
            evicted.append(rows(reservation.evicted.hashes))
            for _ in range(touches):
                cache.acquire(prompt, request).release()
            lease.release()
            cache.finish(request)
        assert evicted[0] == evicted[1]


def test_a_cache_full_of_pinned_blocks_bypasses_and_recovers(policy: str) -> None:
    cache = PrefixCache(12, policy)
    for prompt in (1, 2, 3):
        serve(cache, [prompt] * 4)
    leases = [cache.acquire(hashes([prompt] * 4)) for prompt in (1, 2, 3)]
    for _ in range(50):
        reservation = cache.reserve(hashes([4] * 4))
        assert set(reservation.states.tolist()) == {BlockState.BYPASSED}
        reservation.commit()
    cache.check_invariants()
    for lease in leases:
        lease.release()
    for _ in range(3):
        serve(cache, [4] * 4)
    assert serve(cache, [4] * 4) == 4
    cache.check_invariants()


def test_what_is_in_flight_stays_and_what_is_given_up_goes(policy: str) -> None:
    cache = PrefixCache(8, policy)
    writer = cache.reserve(hashes([1] * 4))
    for fresh in range(100, 140):
        serve(cache, [fresh] * 3)
    assert cache.stats().in_flight_blocks == 4
    writer.commit(2)
    writer.abort()
    assert cache.match(hashes([1] * 4)) == 2
    cache.check_invariants()


# --- Memory -------------------------------------------------------------------------------------


def scans(num_requests: int) -> Iterator[Hashes]:
    """Prompts of 16 blocks that nobody asked for before."""
    rng = np.random.default_rng(0)
    for _ in range(num_requests):
        yield rng.integers(0, 256, (16, 16), np.uint8)


def test_memory_stays_bounded_over_a_long_scan(policy: str) -> None:
    num_blocks = 10_000
    cache = PrefixCache(num_blocks, policy)
    after = []
    for number, prompt in enumerate(scans(20_000), start=1):
        cache.reserve(prompt).commit()
        if number in (10_000, 20_000):  # 16 and 32 times the cache
            after.append(cache.stats().metadata_bytes)
    assert after[1] <= after[0] * 1.02
    assert after[1] < 200 * num_blocks
    cache.check_invariants()

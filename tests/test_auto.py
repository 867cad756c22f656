"""auto in a whole cache: policies that take turns, with what is pinned or has lost its blocks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from models.chains import hashes_of

from kvcore import Lease, PrefixCache, RequestInfo

NUM_BLOCKS = 200


def hot_and_scan(requests: int, first: int) -> Iterator[int]:
    """Of every second block one of 150; for LRU-2."""
    rng = random.Random(1)
    return (rng.randrange(150) if i % 2 else first + i for i in range(requests))


def moving_sets(requests: int, first: int) -> Iterator[int]:
    """150 blocks, four times in turn, and then others; for LRU."""
    return (first + i // 600 * 150 + i % 150 for i in range(requests))


def hit_ratio(cache: PrefixCache, blocks: Iterable[int]) -> float:
    hits = requests = 0
    for block in blocks:
        request = RequestInfo()
        with cache.acquire(hashes_of([block]), request) as lease:
            hits += lease.num_blocks
            cache.reserve(hashes_of([block]), request).commit()
        cache.finish(request)
        requests += 1
    return hits / requests


def test_nobody_waits_for_what_is_pinned() -> None:
    """The pinned block goes over to the next policy, though it cannot leave."""
    cache = PrefixCache(NUM_BLOCKS, "auto:lru2+lru")
    cache.reserve(hashes_of([7_000_000])).commit()
    pin: Lease = cache.pin(hashes_of([7_000_000]))
    hit_ratio(cache, hot_and_scan(20_000, 1_000_000))
    assert hit_ratio(cache, moving_sets(40_000, 4_000_000)) > 0.6  # LRU is at work
    hit_ratio(cache, hot_and_scan(60_000, 10_000_000))
    assert hit_ratio(cache, hot_and_scan(20_000, 20_000_000)) > 0.45  # LRU-2 is, again
    cache.check_invariants()
    pin.release()
    assert cache.match(hashes_of([7_000_000])) == 1


@pytest.mark.parametrize("first", ["lru2", "mq"])
def test_what_comes_back_after_two_changes_has_no_old_marks(first: str) -> None:
    cache = PrefixCache(NUM_BLOCKS, f"auto:{first}+lru")
    hit_ratio(cache, hot_and_scan(40_000, 1_000_000))
    chains, below = [], []
    for start in range(900_000, 900_050, 10):
        chain = [start, start + 1, start + 2]
        above = cache.reserve(hashes_of(chain))
        below.append(cache.reserve(hashes_of([*chain, start + 3])))
        above.abort()  # vacant, with a block in flight below
        chains.append(chain)
    hit_ratio(cache, moving_sets(36_000, 4_000_000))
    hit_ratio(cache, hot_and_scan(24_000, 10_000_000))
    for reservation in below:
        reservation.commit()
    for chain in chains:
        cache.reserve(hashes_of(chain)).commit()
        cache.check_invariants()
    hit_ratio(cache, hot_and_scan(20_000, 20_000_000))
    assert [cache.match(hashes_of(chain)) for chain in chains] == [0] * 5

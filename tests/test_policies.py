"""What the eviction policies do on whole traces: golden misses, properties, textbook rules."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict

import pytest
from models.beside import Beside
from models.small_traces import TRACES, hashes, misses, one_block_mixture, one_block_zipf, serve

from kvcore import PrefixCache, RequestInfo

GOLDEN_CAPACITIES = (10, 30, 60, 120)
GOLDEN_MISSES = {
    ("chat", "lru"): (9608, 8480, 7114, 5531),
    ("chat", "arc"): (9608, 8444, 7086, 5590),
    ("rag", "lru"): (2596, 2393, 2127, 1767),
    ("rag", "arc"): (2594, 2158, 1821, 1562),
    ("scan", "lru"): (2411, 1997, 1454, 1185),
    ("scan", "arc"): (2361, 1334, 1170, 1170),
    ("loop", "lru"): (2000, 2000, 50, 50),
    ("loop", "arc"): (2000, 2000, 50, 50),
    ("chat", "fifo"): (9608, 8480, 7114, 5531),
    ("chat", "slru"): (9608, 8443, 7034, 5505),
    ("chat", "sieve"): (9609, 8171, 6819, 5523),
    ("chat", "s3fifo"): (9300, 8050, 6834, 5510),
    ("chat", "lfu"): (9608, 8421, 6991, 5419),
    ("rag", "fifo"): (2596, 2393, 2127, 1767),
    ("rag", "slru"): (2592, 2136, 1830, 1573),
    ("rag", "sieve"): (2581, 2142, 1836, 1577),
    ("rag", "s3fifo"): (2423, 2019, 1772, 1553),
    ("rag", "lfu"): (2594, 2303, 1966, 1629),
    ("scan", "fifo"): (2416, 2032, 1682, 1416),
    ("scan", "slru"): (2335, 1482, 1170, 1170),
    ("scan", "sieve"): (2377, 1496, 1170, 1170),
    ("scan", "s3fifo"): (2244, 1297, 1185, 1170),
    ("scan", "lfu"): (2403, 1678, 1170, 1170),
    ("loop", "fifo"): (2000, 2000, 50, 50),
    ("loop", "slru"): (2000, 2000, 50, 50),
    ("loop", "sieve"): (2000, 2000, 50, 50),
    ("loop", "s3fifo"): (2000, 1143, 50, 50),
    ("loop", "lfu"): (2000, 2000, 50, 50),
    ("chat", "hazard"): (9384, 7720, 6791, 5271),
    ("rag", "hazard"): (2394, 2041, 1781, 1510),
    ("scan", "hazard"): (2350, 1203, 1180, 1170),
    ("loop", "hazard"): (1620, 850, 50, 50),
}


@pytest.mark.parametrize(("trace", "policy"), GOLDEN_MISSES)
def test_golden_misses(trace: str, policy: str) -> None:
    found = tuple(misses(TRACES[trace], blocks, policy) for blocks in GOLDEN_CAPACITIES)
    assert found == GOLDEN_MISSES[trace, policy]


# --- LRU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", TRACES)
def test_lru_hits_never_fall_as_capacity_grows(trace: str) -> None:
    missed = [misses(TRACES[trace], num_blocks, "lru") for num_blocks in range(1, 80)]
    assert missed == sorted(missed, reverse=True)


class PlainLru:
    """Blocks in an OrderedDict; each request touches its own, the deepest first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.blocks: OrderedDict[tuple[int, ...], None] = OrderedDict()

    def serve(self, tokens: list[int]) -> int:
        prefixes = [tuple(tokens[: end + 1]) for end in range(len(tokens))]
        hits = len(list(itertools.takewhile(self.blocks.__contains__, prefixes)))
        for prefix in reversed(prefixes):
            self.blocks[prefix] = None
            self.blocks.move_to_end(prefix)
        while len(self.blocks) > self.num_blocks:
            self.blocks.popitem(last=False)
        return hits


@pytest.mark.parametrize("num_blocks", [1, 2, 7, 30, 100])
def test_lru_over_spans_is_lru_over_blocks(num_blocks: int) -> None:
    rng = random.Random(num_blocks)
    cache, plain = PrefixCache(num_blocks, "lru"), PlainLru(num_blocks)
    for _ in range(3000):
        tokens = [int(rng.random() < 0.15) for _ in range(rng.randint(0, 25))]
        assert serve(cache, tokens) == plain.serve(tokens)
    cache.check_invariants()


def test_lru_evicts_the_longest_unused_deepest_first() -> None:
    cache = PrefixCache(9, "lru")
    for prompt in (1, 2, 3):
        serve(cache, [prompt] * 3)
    serve(cache, [1] * 3)
    serve(cache, [4] * 2)  # takes the tail of 2
    assert [cache.match(hashes([prompt] * 3)) for prompt in (1, 2, 3, 4)] == [3, 1, 3, 2]


def test_lru_counts_acquire_without_reserve_as_use() -> None:
    cache = PrefixCache(4, "lru")
    serve(cache, [1, 1])
    serve(cache, [2, 2])
    cache.acquire(hashes([1, 1])).release()
    serve(cache, [3, 3])
    assert [cache.match(hashes([prompt] * 2)) for prompt in (1, 2, 3)] == [2, 0, 2]


def test_match_is_no_use() -> None:
    cache = PrefixCache(4, "lru")
    serve(cache, [1, 1])
    serve(cache, [2, 2])
    assert cache.match(hashes([1, 1])) == 2
    serve(cache, [3, 3])
    assert [cache.match(hashes([prompt] * 2)) for prompt in (1, 2, 3)] == [0, 2, 2]


# --- ARC ----------------------------------------------------------------------------------------


class PaperArc:
    """ARC(c) as figure 4 of Megiddo and Modha (FAST 2003) gives it; lists are oldest first."""

    def __init__(self, c: int) -> None:
        self.c = c
        self.p = 0.0
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []

    def request(self, x: int) -> bool:
        """True when it is a hit."""
        if x in self.t1 or x in self.t2:  # case I
            (self.t1 if x in self.t1 else self.t2).remove(x)
            self.t2.append(x)
            return True
        if x in self.b1:  # case II
            delta = 1 if len(self.b1) >= len(self.b2) else len(self.b2) / len(self.b1)
            self.p = min(self.p + delta, self.c)
            self.replace(x)
            self.b1.remove(x)
            self.t2.append(x)
            return False
        if x in self.b2:  # case III
            delta = 1 if len(self.b2) >= len(self.b1) else len(self.b1) / len(self.b2)
            self.p = max(self.p - delta, 0)
            self.replace(x)
            self.b2.remove(x)
            self.t2.append(x)
            return False
        in_l1, in_l2 = len(self.t1) + len(self.b1), len(self.t2) + len(self.b2)  # case IV
        if in_l1 == self.c:
            if len(self.t1) < self.c:
                self.b1.pop(0)
                self.replace(x)
            else:
                self.t1.pop(0)
        elif in_l1 + in_l2 >= self.c:
            if in_l1 + in_l2 == 2 * self.c:
                self.b2.pop(0)
            self.replace(x)
        self.t1.append(x)
        return False

    def replace(self, x: int) -> None:
        size = len(self.t1)
        if size > 0 and (size > self.p or (x in self.b2 and size == self.p)):
            self.b1.append(self.t1.pop(0))
        else:
            self.b2.append(self.t2.pop(0))


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, 20, 50, 200])
def test_arc_on_chains_of_one_block_is_the_paper_s(num_blocks: int) -> None:
    cache, paper = PrefixCache(num_blocks, "arc"), PaperArc(num_blocks)
    for block in one_block_mixture(num_blocks, 6000):
        assert serve(cache, [block]) == paper.request(block)
    cache.check_invariants()


@pytest.mark.parametrize("num_blocks", [50, 200, 500])
def test_arc_on_chains_of_one_block_is_near_libcachesim_s(num_blocks: int) -> None:
    libcachesim = pytest.importorskip("libcachesim")
    trace = one_block_zipf(5, 40_000, 2000, 0.9)
    peer = libcachesim.ARC(cache_size=num_blocks, hashpower=14)
    request = libcachesim.Request(obj_size=1)
    peer_hits = 0
    for block in trace:
        request.obj_id = block + 1
        peer_hits += peer.get(request)
    ours = len(trace) - misses([[block] for block in trace], num_blocks, "arc")
    assert abs(ours - peer_hits) / len(trace) < 0.001


def test_arc_keeps_what_is_used_again_through_a_scan() -> None:
    """LRU loses everything to a scan as long as the cache."""
    for policy, kept in (("arc", 5), ("lru", 0)):
        cache = PrefixCache(20, policy)
        serve(cache, [1] * 5)
        serve(cache, [1] * 5)
        for prompt in range(100, 110):
            serve(cache, [prompt] * 4)
        assert cache.match(hashes([1] * 5)) == kept


@pytest.mark.parametrize(("last", "kept"), [(2, 3), (9, 2)])
def test_arc_brings_back_a_ghost_as_used_before(last: int, kept: int) -> None:
    """A block that returns soon after it left stays through the next scan; a new one does not."""
    cache = PrefixCache(10, "arc")
    serve(cache, [1] * 2)
    serve(cache, [1] * 2)  # so that not all is new: only then T1 leaves ghosts
    serve(cache, [2] * 3)
    for prompt in (100, 101, 102):
        serve(cache, [prompt] * 2)  # the last one drives a block of 2 out
    assert cache.match(hashes([2] * 3)) == 2
    serve(cache, [2, 2, last])
    for prompt in range(200, 220):
        serve(cache, [prompt] * 2)
    assert cache.match(hashes([2, 2, last])) == kept


def test_arc_touches_of_one_request_are_one_use() -> None:
    """However often a request touches its blocks, they are as good as new to the next scan."""
    for requests, kept in ((1, 0), (2, 3)):
        cache = PrefixCache(10, "arc")
        infos = [RequestInfo() for _ in range(requests)]
        for touch in range(4):
            info = infos[touch % requests]
            cache.acquire(hashes([1] * 3), info).release()
            cache.reserve(hashes([1] * 3), info).commit()
        for prompt in range(100, 110):
            serve(cache, [prompt] * 2)
        assert cache.match(hashes([1] * 3)) == kept


def test_arc_a_request_without_missing_blocks_has_none_in_b2() -> None:
    """What an earlier request found in B2 does not decide who leaves for this one."""
    both = Beside(10, "arc")
    both.serve([0] * 7, RequestInfo())
    both.serve([0] * 4, RequestInfo())
    both.reserve([1], RequestInfo())
    given_up = both.reserve([0, 0, 1], RequestInfo())
    both.serve([0, 0, 1, 0, 0, 0, 0, 1], RequestInfo())
    both.abort(given_up)  # a vacant block, with others below
    both.serve([0] * 7, RequestInfo())  # finds some of its blocks in B2
    both.reserve([0, 0, 1], RequestInfo())  # only the vacant one comes again
    both.check()

"""Policies that remember what has left: LRU-2, MQ, W-TinyLFU, tail-optimised LRU."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
from models.beside import Beside
from models.chains import chain_of
from models.small_traces import TRACES, hashes, misses, one_block_mixture, one_block_zipf, serve
from models.wtinylfu_model import SketchModel
from test_policies import GOLDEN_CAPACITIES, PlainLru

from kvcore import PrefixCache, RequestInfo

GOLDEN_MISSES = {
    ("chat", "lru2"): (9387, 8109, 6852, 5660),
    ("chat", "mq"): (9216, 7679, 6875, 5402),
    ("chat", "wtinylfu"): (9373, 7753, 6900, 5658),
    ("chat", "tlru"): (9608, 8480, 7114, 5531),
    ("rag", "lru2"): (2438, 2087, 1812, 1500),
    ("rag", "mq"): (2571, 2382, 2097, 1759),
    ("rag", "wtinylfu"): (2492, 2116, 1820, 1493),
    ("rag", "tlru"): (2591, 2346, 2027, 1648),
    ("scan", "lru2"): (2251, 1215, 1170, 1170),
    ("scan", "mq"): (2258, 1323, 1194, 1170),
    ("scan", "wtinylfu"): (2287, 1273, 1170, 1170),
    ("scan", "tlru"): (2423, 2002, 1567, 1422),
    ("loop", "lru2"): (2000, 2000, 50, 50),
    ("loop", "mq"): (2000, 2000, 50, 50),
    ("loop", "wtinylfu"): (1695, 1019, 50, 50),
    ("loop", "tlru"): (2000, 2000, 50, 50),
}


@pytest.mark.parametrize(("trace", "policy"), GOLDEN_MISSES)
def test_golden_misses(trace: str, policy: str) -> None:
    found = tuple(misses(TRACES[trace], blocks, policy) for blocks in GOLDEN_CAPACITIES)
    assert found == GOLDEN_MISSES[trace, policy]


# --- Chains of one block --------------------------------------------------------------------------


def is_hit(cache: PrefixCache, block: int) -> bool:
    """One use, in one call: time is counted in uses."""
    with cache.reserve(hashes([block]), RequestInfo()) as reservation:
        reservation.commit()
        return len(reservation.new_positions) == 0


class PaperLru2:
    """LRU-2 of O'Neil, O'Neil and Weikum (SIGMOD 1993)."""

    def __init__(self, num_blocks: int, retained: int) -> None:
        self.num_blocks = num_blocks
        self.retained = retained
        self.uses: dict[int, tuple[int, int]] = {}  # the last but one (0: none), the last
        self.history: OrderedDict[int, int] = OrderedDict()  # the last, of what has left
        self.now = 0

    def request(self, x: int) -> bool:
        """True when it is a hit."""
        self.now += 1
        hit = x in self.uses
        last = self.uses[x][1] if hit else self.history.pop(x, 0)
        if not hit and len(self.uses) == self.num_blocks:
            victim = min(self.uses, key=self.uses.__getitem__)
            self.history[victim] = self.uses.pop(victim)[1]
        self.uses[x] = (last, self.now)
        while len(self.history) > self.retained:
            self.history.popitem(last=False)
        return hit


class PaperMq:
    """MQ as figure 5 of Zhou, Philbin and Li (USENIX ATC 2001) gives it, with eight queues.

    With ``sinks_one`` a use looks at the front of each queue once, as there; else all that is due
    sinks, as in ours.
    """

    def __init__(self, num_blocks: int, life: int, sinks_one: bool) -> None:
        self.num_blocks = num_blocks
        self.life = life
        self.sinks_one = sinks_one
        self.queues: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(8)]  # -> expires
        self.counts: dict[int, int] = {}
        self.qout: OrderedDict[int, int] = OrderedDict()
        self.now = 0

    def request(self, x: int) -> bool:
        """True when it is a hit."""
        self.now += 1
        hit = x in self.counts
        if hit:
            next(queue for queue in self.queues if x in queue).pop(x)
        else:
            self.counts[x] = self.qout.pop(x, 0)
            if len(self.counts) > self.num_blocks:
                victim, _ = next(filter(None, self.queues)).popitem(last=False)
                self.qout[victim] = self.counts.pop(victim)
        self.counts[x] += 1
        self.queues[min(self.counts[x].bit_length() - 1, 7)][x] = self.now + self.life
        for queue, below in zip(self.queues[1:], self.queues, strict=False):
            while queue and next(iter(queue.values())) < self.now:
                below[queue.popitem(last=False)[0]] = self.now + self.life
                if self.sinks_one:
                    break
        while len(self.qout) > 4 * self.num_blocks:
            self.qout.popitem(last=False)
        return hit


class PaperWTinyLfu:
    """W-TinyLFU of Einziger, Friedman and Manes (TOS 2017), over a window that climbs."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.sketch = SketchModel(num_blocks)
        self.window: OrderedDict[int, None] = OrderedDict()  # all three: the oldest first
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.protected: OrderedDict[int, None] = OrderedDict()
        self.window_limit = max(num_blocks // 100, 1)
        self.step = max(num_blocks // 16, 1)
        self.uses = self.hits = 0
        self.hit_ratio = 0.0

    def frequency(self, x: int) -> int:
        return self.sketch.count(chain_of([x])[0])

    def request(self, x: int) -> bool:
        """True when it is a hit."""
        parts = self.window, self.probation, self.protected
        part = next((part for part in parts if x in part), None)
        self.sketch.add(chain_of([x])[0])
        self.uses += 1
        self.hits += part is not None
        if part is None:
            if sum(map(len, parts)) == self.num_blocks:
                self.make_room()
            self.window[x] = None
        elif part is self.probation:
            del self.probation[x]
            self.protected[x] = None
        else:
            part.move_to_end(x)
        self.climb()
        main = self.num_blocks - self.window_limit
        while (
            len(self.window) > self.window_limit
            and len(self.probation) + len(self.protected) < main
        ):
            self.probation[self.window.popitem(last=False)[0]] = None
        while len(self.protected) > main * 4 // 5:
            self.probation[self.protected.popitem(last=False)[0]] = None
        return part is not None

    def make_room(self) -> None:
        while not self.probation and self.protected:
            self.probation[self.protected.popitem(last=False)[0]] = None
        if len(self.window) < self.window_limit and self.probation:
            self.probation.popitem(last=False)
            return
        candidate, _ = self.window.popitem(last=False)
        if not self.probation:
            return
        if self.frequency(candidate) > self.frequency(next(iter(self.probation))):
            self.probation.popitem(last=False)
            self.probation[candidate] = None

    def climb(self) -> None:
        if self.uses < 10 * self.num_blocks:
            return
        if self.hits / self.uses < self.hit_ratio:
            self.step = -self.step
        most = max(self.num_blocks - self.num_blocks // 5, 1)
        limit = max(self.window_limit + self.step, self.num_blocks // 100, 1)
        self.window_limit = min(limit, most)
        self.hit_ratio = self.hits / self.uses
        self.uses = self.hits = 0


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, 20, 50, 200])
def test_lru2_on_chains_of_one_block_is_the_paper_s(num_blocks: int) -> None:
    cache, paper = PrefixCache(num_blocks, "lru2"), PaperLru2(num_blocks, 4 * num_blocks)
    for block in one_block_mixture(num_blocks, 6000):
        assert is_hit(cache, block) == paper.request(block)
    cache.check_invariants()


def one_gap_width(seed: int, requests: int) -> list[int]:
    """All blocks that come again were used 64 to 127 uses before: one life time fits all."""
    rng = random.Random(seed)
    trace: list[int] = []
    last_use: dict[int, int] = {}
    for now in range(requests):
        old = [trace[at] for at in range(max(now - 127, 0), now - 63) if last_use[trace[at]] == at]
        trace.append(rng.choice(old) if old and rng.random() < 0.8 else 1000 + now)
        last_use[trace[-1]] = now
    return trace


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, 20, 50, 200])
def test_mq_on_chains_of_one_block_is_the_paper_s(num_blocks: int) -> None:
    cache, paper = PrefixCache(num_blocks, "mq"), PaperMq(num_blocks, 128, sinks_one=False)
    for block in one_gap_width(num_blocks, 4000):
        assert is_hit(cache, block) == paper.request(block)
    cache.check_invariants()


@pytest.mark.parametrize("num_blocks", [2, 4])
def test_mq_forgets_old_gaps(num_blocks: int) -> None:
    """Many uses at wide gaps, and then fewer at narrow ones: life time follows, as the model's."""
    rng, both = random.Random(num_blocks), Beside(num_blocks, "mq")
    for num_prompts in (16, 3, 16):
        for _ in range(600):
            both.serve([rng.randrange(num_prompts)], RequestInfo())
    both.check()


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, 20, 50, 200])
def test_wtinylfu_on_chains_of_one_block_is_the_paper_s(num_blocks: int) -> None:
    cache, paper = PrefixCache(num_blocks, "wtinylfu"), PaperWTinyLfu(num_blocks)
    for block in one_block_mixture(num_blocks, 6000):
        assert is_hit(cache, block) == paper.request(block)
    cache.check_invariants()


@pytest.mark.parametrize("num_blocks", [1, 3, 20, 100])
def test_tlru_on_chains_of_one_block_is_lru(num_blocks: int) -> None:
    cache, plain = PrefixCache(num_blocks, "tlru"), PlainLru(num_blocks)
    for block in one_block_mixture(num_blocks, 4000):
        assert serve(cache, [block]) == plain.serve([block])


def peer_hits(policy: str, num_blocks: int, trace: list[int], **options: int) -> int:
    """How many hits libCacheSim's ``policy`` has."""
    libcachesim = pytest.importorskip("libcachesim")
    peer = getattr(libcachesim, policy)(cache_size=num_blocks, hashpower=14, **options)
    request = libcachesim.Request(obj_size=1)
    hits = 0
    for block in trace:
        request.obj_id = block + 1
        hits += peer.get(request)
    return hits


ZIPF = one_block_zipf(5, 40_000, 2000, 0.9)


@pytest.mark.parametrize("num_blocks", [50, 200, 500])
def test_the_paper_s_lru2_is_near_libcachesim_s(num_blocks: int) -> None:
    """libCacheSim retains nothing of what has left, where ours retains 4 ghosts a block."""
    paper = PaperLru2(num_blocks, retained=0)
    hits = sum(map(paper.request, ZIPF))
    assert abs(hits - peer_hits("LRUK", num_blocks, ZIPF)) / len(ZIPF) < 0.001


@pytest.mark.parametrize("num_blocks", [50, 200, 500])
@pytest.mark.parametrize("sinks_one", [True, False])
def test_the_paper_s_mq_is_near_libcachesim_s(num_blocks: int, sinks_one: bool) -> None:
    """libCacheSim is told the life time; ours measures it."""
    paper = PaperMq(num_blocks, 2048, sinks_one)
    hits = sum(map(paper.request, ZIPF))
    assert abs(hits - peer_hits("MQ", num_blocks, ZIPF, lifetime=2048)) / len(ZIPF) < 0.001


@pytest.mark.parametrize("num_blocks", [200, 500])
def test_wtinylfu_is_not_far_from_libcachesim_s(num_blocks: int) -> None:
    """libCacheSim's window stays at 1 %, which suits a load that never changes, and its sketch has
    no doorkeeper and ages after 32 uses a block of the cache."""
    cache = PrefixCache(num_blocks, "wtinylfu")
    hits = sum(is_hit(cache, block) for block in ZIPF)
    assert abs(hits - peer_hits("WTinyLFU", num_blocks, ZIPF)) / len(ZIPF) < 0.025


# --- What the policies are for --------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lru2", "mq"])
def test_blocks_used_again_outlive_a_scan(policy: str) -> None:
    """A prompt longer than what is free takes one block from them, no more."""
    cache = PrefixCache(20, policy)
    for _ in range(2):
        for prompt in range(4):
            serve(cache, [prompt] * 5)
    serve(cache, [100] * 20)
    assert cache.match(hashes([100] * 20)) == 1
    assert sorted(cache.match(hashes([prompt] * 5)) for prompt in range(4)) == [4, 5, 5, 5]


@pytest.mark.parametrize("policy", ["lru2", "mq"])
def test_what_found_no_place_is_remembered(policy: str) -> None:
    """The second time it is known, and takes the place of what was used longer ago."""
    cache = PrefixCache(20, policy)
    for _ in range(2):
        for prompt in range(4):
            serve(cache, [prompt] * 5)
    for _ in range(2):
        serve(cache, [100] * 20)
    assert cache.match(hashes([100] * 20)) == 20


@pytest.mark.parametrize(("policy", "scans"), [("lru2", 30), ("mq", 4), ("wtinylfu", 30)])
def test_touches_of_one_request_are_one_use(policy: str, scans: int) -> None:
    """However often a request touches its blocks, they are as good as new to the next scan."""
    kept = []
    for requests in (1, 4):
        cache = PrefixCache(12, policy)
        infos = [RequestInfo() for _ in range(requests)]
        for touch in range(8):
            info = infos[touch % requests]
            cache.acquire(hashes([1] * 4), info).release()
            cache.reserve(hashes([1] * 4), info).commit()
        for prompt in range(100, 100 + scans):
            serve(cache, [prompt] * 3)
        kept.append(cache.match(hashes([1] * 4)))
    assert kept[0] == 0
    assert kept[1] >= 3


def test_tlru_spares_the_ends_of_conversations_first() -> None:
    """Twelve conversations of forty blocks that grow by one, in room for eleven: LRU drops whole
    ones, so that turns wait for all of their blocks."""
    longest_wait = {}
    for policy in ("lru", "tlru"):
        cache = PrefixCache(11 * 44, policy)
        waits = []
        for turn in range(12):
            for chat in range(12):
                tokens = [chat] * (40 + turn)
                waits.append(len(tokens) - serve(cache, tokens))
        longest_wait[policy] = max(waits[5 * 12 : 8 * 12])
        cache.check_invariants()
    assert longest_wait["lru"] > 40
    assert longest_wait["tlru"] <= 12

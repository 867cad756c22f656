"""FIFO, SLRU, SIEVE, S3-FIFO and LFU: textbook rules on chains of one block, then longer ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import pytest
from models.small_traces import hashes, misses, one_block_mixture, one_block_zipf, serve

from kvcore import PrefixCache

# --- Textbooks ----------------------------------------------------------------------------------


class Textbook(Protocol):
    def request(self, x: int) -> bool: ...  # True when it is a hit


class PlainFifo:
    def __init__(self, c: int) -> None:
        self.c = c
        self.queue: OrderedDict[int, None] = OrderedDict()

    def request(self, x: int) -> bool:
        if x in self.queue:
            return True
        if len(self.queue) == self.c:
            self.queue.popitem(last=False)
        self.queue[x] = None
        return False


class PaperSlru:
    """Two segments as Karedla, Love and Wherry (1994) give them; lists are oldest first."""

    def __init__(self, c: int) -> None:
        self.c = c
        self.probationary: list[int] = []
        self.protected: list[int] = []

    def request(self, x: int) -> bool:
        if x in self.protected:
            self.protected.remove(x)
            self.protected.append(x)
            return True
        if x in self.probationary:
            self.probationary.remove(x)
            self.protected.append(x)
            if len(self.protected) > self.c * 4 // 5:
                self.probationary.append(self.protected.pop(0))
            return True
        if len(self.probationary) + len(self.protected) == self.c:
            (self.probationary or self.protected).pop(0)
        self.probationary.append(x)
        return False


class PaperSieve:
    """Algorithm 1 of Zhang et al. (NSDI 2024); the queue is newest first, as there."""

    def __init__(self, c: int) -> None:
        self.c = c
        self.queue: list[int] = []
        self.visited: dict[int, bool] = {}
        self.hand: int | None = None

    def request(self, x: int) -> bool:
        if x in self.visited:
            self.visited[x] = True
            return True
        if len(self.queue) == self.c:
            self.evict()
        self.queue.insert(0, x)
        self.visited[x] = False
        return False

    def evict(self) -> None:
        x = self.queue[-1] if self.hand is None else self.hand
        while self.visited[x]:
            self.visited[x] = False
            place = self.queue.index(x)
            x = self.queue[place - 1] if place > 0 else self.queue[-1]
        place = self.queue.index(x)
        self.hand = self.queue[place - 1] if place > 0 else None
        self.queue.remove(x)
        del self.visited[x]


class PaperS3Fifo:
    """Algorithm 1 of Yang et al. (SOSP 2023), with the order of the authors' code: main loses a
    block when it has more than its share, small otherwise. Lists are oldest first."""

    def __init__(self, c: int) -> None:
        self.c = c
        self.main_size = c - max(c // 10, 1)
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts: list[int] = []
        self.freq: dict[int, int] = {}

    def request(self, x: int) -> bool:
        if x in self.freq:
            self.freq[x] = min(self.freq[x] + 1, 3)
            return True
        known = x in self.ghosts
        if known:
            self.ghosts.remove(x)
        while len(self.small) + len(self.main) == self.c:
            if len(self.main) > self.main_size or not self.small:
                self.evict_main()
            else:
                self.evict_small()
        (self.main if known else self.small).append(x)
        self.freq[x] = 0
        return False

    def evict_small(self) -> None:
        while self.small:
            x = self.small.pop(0)
            if self.freq[x] > 1:
                self.main.append(x)
                self.freq[x] = 0
            else:
                del self.freq[x]
                self.ghosts = [*self.ghosts, x][-self.main_size :] if self.main_size else []
                return

    def evict_main(self) -> None:
        while self.freq[self.main[0]] > 0:
            x = self.main.pop(0)
            self.main.append(x)
            self.freq[x] -= 1
        del self.freq[self.main.pop(0)]


class PaperLfuDa:
    """K = L + F (Arlitt et al., 2000); F up to 255."""

    def __init__(self, c: int) -> None:
        self.c = c
        self.age = 0
        self.uses: dict[int, int] = {}
        self.keys: OrderedDict[int, int] = OrderedDict()  # the least recently used first

    def request(self, x: int) -> bool:
        hit = x in self.keys
        if not hit and len(self.keys) == self.c:
            lowest = min(self.keys, key=self.keys.__getitem__)
            self.age = self.keys.pop(lowest)
            del self.uses[lowest]
        self.uses[x] = min(self.uses.get(x, 0) + 1, 255)
        self.keys[x] = self.age + self.uses[x]
        self.keys.move_to_end(x)
        return hit


TEXTBOOKS: dict[str, Callable[[int], Textbook]] = {
    "fifo": PlainFifo,
    "slru": PaperSlru,
    "sieve": PaperSieve,
    "s3fifo": PaperS3Fifo,
    "lfu": PaperLfuDa,
}


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, 20, 50, 200])
@pytest.mark.parametrize("policy", TEXTBOOKS)
def test_on_chains_of_one_block_it_is_the_textbook_s(policy: str, num_blocks: int) -> None:
    cache, textbook = PrefixCache(num_blocks, policy), TEXTBOOKS[policy](num_blocks)
    for block in one_block_mixture(num_blocks, 6000):
        assert serve(cache, [block]) == textbook.request(block)
    cache.check_invariants()


@pytest.mark.parametrize("num_blocks", [50, 200, 500])
@pytest.mark.parametrize(
    ("policy", "name", "requests", "apart"),
    [
        ("lru", "LRU", 40_000, 0.001),
        ("fifo", "FIFO", 40_000, 0.001),
        ("sieve", "Sieve", 40_000, 0.001),
        # It puts new blocks into main until something has left, which long traces forget.
        ("s3fifo", "S3FIFO", 100_000, 0.001),
        # It has four segments of a quarter each, which is another algorithm.
        ("slru", "SLRU", 40_000, 0.01),
        # Its LFUDA adds L to the key at each use: another algorithm, not compared.
    ],
)
def test_on_chains_of_one_block_it_is_near_libcachesim_s(
    policy: str, name: str, requests: int, apart: float, num_blocks: int
) -> None:
    libcachesim = pytest.importorskip("libcachesim")
    trace = one_block_zipf(5, requests, 2000, 0.9)
    peer = getattr(libcachesim, name)(cache_size=num_blocks, hashpower=14)
    request = libcachesim.Request(obj_size=1)
    peer_hits = 0
    for block in trace:
        request.obj_id = block + 1
        peer_hits += peer.get(request)
    ours = requests - misses([[block] for block in trace], num_blocks, policy)
    assert abs(ours - peer_hits) / requests < apart


# --- Longer chains ------------------------------------------------------------------------------


def matches(cache: PrefixCache, *prompts: list[int]) -> list[int]:
    return [cache.match(hashes(prompt)) for prompt in prompts]


def test_fifo_a_block_that_was_held_when_its_turn_came_leaves_first() -> None:
    cache = PrefixCache(6, "fifo")
    serve(cache, [1, 1])
    lease = cache.acquire(hashes([1, 1]))
    for prompt in ([2, 2], [3, 3], [4, 4]):
        serve(cache, prompt)
    assert matches(cache, [1, 1], [2, 2], [3, 3], [4, 4]) == [2, 0, 2, 2]
    lease.release()
    serve(cache, [5, 5])
    assert matches(cache, [1, 1], [3, 3], [4, 4], [5, 5]) == [0, 2, 2, 2]


def test_slru_what_was_last_used_together_goes_back_together() -> None:
    cache = PrefixCache(10, "slru")  # 8 of them protected
    for prompt in ([1] * 5, [2] * 3, [3] * 2):
        serve(cache, prompt)
    for prompt in ([1] * 5, [2] * 3):
        serve(cache, prompt)  # all are protected
    serve(cache, [3] * 2)  # and do not fit any more: 1 goes back, newer than all that was there
    serve(cache, [4] * 4)
    assert matches(cache, [1] * 5, [2] * 3, [3] * 2, [4] * 4) == [1, 3, 2, 4]


def test_sieve_keeps_what_is_used_through_a_prompt_longer_than_the_rest() -> None:
    """The hand comes to the prompt itself before it comes around; LRU would lose everything."""
    cache = PrefixCache(20, "sieve")
    for prompt in ([1] * 5, [2] * 10, [1] * 5):
        serve(cache, prompt)
    serve(cache, [9] * 40)
    assert matches(cache, [1] * 5, [2] * 10, [9] * 40) == [5, 0, 15]


def test_s3fifo_bypasses_what_small_cannot_take_and_knows_it_next_time() -> None:
    cache = PrefixCache(20, "s3fifo")  # 2 of them small
    for _ in range(3):
        serve(cache, [1] * 12)
    serve(cache, [2] * 8)  # the last use of 1 lets it go to main, once small has to give
    serve(cache, [9] * 40)
    assert matches(cache, [1] * 12, [2] * 8, [9] * 40) == [12, 0, 8]
    for _ in range(3):
        serve(cache, [9] * 40)  # its ghosts go to main, and push 1 out
    assert matches(cache, [1] * 12, [9] * 40) == [0, 20]


def test_lfu_old_demand_ages() -> None:
    cache = PrefixCache(8, "lfu")
    for _ in range(20):
        serve(cache, [1] * 4)
    for fresh in range(100, 110):
        serve(cache, [fresh] * 4)
    assert matches(cache, [1] * 4) == [4]
    for fresh in range(110, 140):
        serve(cache, [fresh] * 4)
    assert matches(cache, [1] * 4) == [0]

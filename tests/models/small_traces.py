"""Small traces, and what a cache misses on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

from kvcore import PrefixCache, RequestInfo
from models.chains import Hashes, hashes_of

Trace = list[list[int]]  # the tokens of each request; one token makes one block


class Hasher:
    """Hashes each prompt once."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Hashes] = {}

    def __call__(self, tokens: Iterable[int]) -> Hashes:
        key = tuple(tokens)
        if key not in self.known:
            self.known[key] = hashes_of(key)
        return self.known[key]


hashes = Hasher()


def serve(cache: PrefixCache, tokens: Iterable[int]) -> int:
    """One request from its start to its end; answers how many of its blocks were there."""
    request = RequestInfo()
    with cache.acquire(hashes(tokens), request) as lease:
        with cache.reserve(hashes(tokens), request) as reservation:
            reservation.commit()
        cache.finish(request)
        return lease.num_blocks


def misses(trace: Trace, num_blocks: int, policy: str) -> int:
    cache = PrefixCache(num_blocks, policy)
    missed = sum(len(tokens) - serve(cache, tokens) for tokens in trace)
    cache.check_invariants()
    return missed


# --- Small traces -------------------------------------------------------------------------------
# Only random.random() is used: its sequence is the same in every version of Python.


def below(rng: random.Random, bound: int) -> int:
    return int(rng.random() * bound)


def zipf_ranks(rng: random.Random, count: int, skew: float) -> Iterator[int]:
    weights = list(itertools.accumulate(1 / rank**skew for rank in range(1, count + 1)))
    while True:
        point = rng.random() * weights[-1]
        yield next(rank for rank, weight in enumerate(weights) if point < weight)


def chat_trace(seed: int) -> Trace:
    """Conversations that grow turn by turn, a few at a time, behind one of three system prompts."""
    rng = random.Random(seed)
    fresh = itertools.count(100)
    open_chats: list[list[int]] = []
    trace: Trace = []
    for _ in range(400):
        if (len(open_chats) < 12 and rng.random() < 0.3) or not open_chats:
            system = below(rng, 3)
            open_chats.append([system] * (4 + 3 * system))
        which = below(rng, len(open_chats))
        open_chats[which] = open_chats[which] + [next(fresh) for _ in range(1 + below(rng, 6))]
        trace.append(open_chats[which])
        if rng.random() < 0.15:
            del open_chats[which]
    return trace


def rag_trace(seed: int) -> Trace:
    """Popular documents behind one instruction, each with a question of its own."""
    rng = random.Random(seed)
    documents = zipf_ranks(rng, 80, 0.9)
    fresh = itertools.count(1000)
    trace: Trace = []
    for _ in range(500):
        document = next(documents)
        body = [10 + document] * (2 + document % 7)
        trace.append([1, 1, *body, next(fresh)])
    return trace


def scan_trace(seed: int) -> Trace:
    """A few prompts that come again and again, and bursts of prompts that never do."""
    rng = random.Random(seed)
    fresh = itertools.count(1000)
    trace: Trace = []
    for _ in range(60):
        trace += [[below(rng, 6)] * 5 for _ in range(6)]
        trace += [[next(fresh)] * 4 for _ in range(below(rng, 10))]
    return trace


def loop_trace() -> Trace:
    """Five prompts of ten blocks in a circle."""
    return [[prompt] * 10 for _ in range(40) for prompt in range(5)]


TRACES: dict[str, Trace] = {
    "chat": chat_trace(1),
    "rag": rag_trace(2),
    "scan": scan_trace(3),
    "loop": loop_trace(),
}


# --- Chains of one block each -------------------------------------------------------------------


def one_block_zipf(seed: int, requests: int, blocks: int, skew: float) -> list[int]:
    ranks = zipf_ranks(random.Random(seed), blocks, skew)
    return [next(ranks) for _ in range(requests)]


def one_block_mixture(seed: int, requests: int) -> list[int]:
    """Popular blocks, with scans and loops between."""
    rng = random.Random(seed)
    popular = zipf_ranks(rng, 60, 1.0)
    fresh = itertools.count(1000)
    trace: list[int] = []
    while len(trace) < requests:
        trace += [next(popular) for _ in range(below(rng, 60))]
        trace += [next(fresh) for _ in range(below(rng, 25))]
        first, length = below(rng, 100), below(rng, 30)
        trace += list(range(first, first + length)) * below(rng, 4)
    return trace

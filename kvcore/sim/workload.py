"""Synthetic traces in Mooncake's JSONL, the same bytes for the same seed.

Each kind follows its source in shape: the quantities that its docstring names, not more. They serve
demos and tests; conclusions about policies need real traces.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeAlias

from kvcore.sim.dice import Dice, Popularity

BLOCK_TOKENS = 512
DEFAULT_REQUESTS = 2_000

# A piece of a prompt: its name and its length. Two prompts share what they begin with, piece by
# piece; a number names private text, a pair of a word and a rank names a shared text.
Piece: TypeAlias = tuple[int | tuple[str, int], int]

# Ids by the id of the block before and the pieces (name, position, tokens) of the block.
_Names: TypeAlias = dict[tuple[int, tuple[tuple[Hashable, int, int], ...]], int]

_CHAT_LIMIT_TOKENS = 128_000
_AGENT_LIMIT_TOKENS = 200_000


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a workload: when it arrives, what it asks, how much is answered."""

    arrival_s: float
    prompt: tuple[Piece, ...]
    output_tokens: int


def chat(dice: Dice) -> Iterator[Request]:
    """Conversations of several turns below shared system prompts.

    Follows in shape the conversation trace of Mooncake (FAST'25): prompts of 12,000 tokens in the
    mean and 7,000 in the median, answers of 340, half a minute to ten between the turns (median
    123 s), about 37 % of tokens reusable by an unbounded cache; and the finding on Qwen-Bailian
    (arXiv 2506.02634) that single-turn requests reuse too, here each other's system prompts.

    Parameters: 64 system prompts (lognormal, median 700 tokens), popularity Zipf 1.0; a session
    starts every 2 s (Poisson) and goes on after a turn with probability 0.38; first message
    lognormal (4,600, sigma 1.3), later ones (900, 1.5), answers (260, 0.75), pauses (123 s, 1.0).
    """
    systems = _shared_texts(dice, "system", 64, 700, 0.5)
    popularity = Popularity.zipf(len(systems), 1.0)
    private = count()

    def session(start_s: float) -> Iterator[Request]:
        context: list[Piece] = [systems[dice.rank(popularity)]]
        arrival_s = start_s
        message = dice.tokens(4_600, 1.3)
        while True:
            context.append((next(private), message))
            if _length(context) > _CHAT_LIMIT_TOKENS:
                return
            answer = dice.tokens(260, 0.75)
            yield Request(arrival_s, tuple(context), answer)
            if not dice.chance(0.38):
                return
            context.append((next(private), answer))
            message = dice.tokens(900, 1.5)
            arrival_s += dice.lognormal(123, 1.0)

    return _interleave(dice, session, mean_gap_s=2.0)


def agent(dice: Dice) -> Iterator[Request]:
    """Coding agents: long contexts that grow by little at each of many quick steps.

    Follows in shape the coding-agent sessions of callanjfox/kv-cache-tester: 56 steps a session in
    the mean, 8 / 17 / 111 s between steps (10th, 50th, 90th percentile), some 670 tokens added by
    a step in the median, contexts of 100,000 tokens, tool and system prefixes shared between
    sessions, 1 to 2 % of steps at which the context is compacted.

    Parameters: 8 tool prefixes (lognormal, median 14,000 tokens), popularity Zipf 1.0; a session
    starts every 40 s (Poisson) with (12,000, sigma 1.2) tokens of its own and goes on after a step
    with probability 55/56; tool results (450, 1.6), answers (218, 1.0); pauses (14 s, 0.5), one in
    six of them (110 s, 1.2); above 200,000 tokens all but the prefix becomes a summary (6,000,
    0.5).
    """
    prefixes = _shared_texts(dice, "tools", 8, 14_000, 0.35)
    popularity = Popularity.zipf(len(prefixes), 1.0)
    private = count()

    def session(start_s: float) -> Iterator[Request]:
        prefix = prefixes[dice.rank(popularity)]
        context = [prefix, (next(private), dice.tokens(12_000, 1.2))]
        arrival_s = start_s
        while True:
            if _length(context) > _AGENT_LIMIT_TOKENS:
                context = [prefix, (next(private), dice.tokens(6_000, 0.5))]
            answer = dice.tokens(218, 1.0)
            yield Request(arrival_s, tuple(context), answer)
            if not dice.chance(55 / 56):
                return
            context.append((next(private), answer + dice.tokens(450, 1.6)))
            slow = dice.chance(1 / 6)
            arrival_s += dice.lognormal(110, 1.2) if slow else dice.lognormal(14, 0.5)

    return _interleave(dice, session, mean_gap_s=40.0)


def rag(dice: Dice) -> Iterator[Request]:
    """Questions below retrieved documents: reuse only where the first documents are the same.

    Follows in shape the skew that RAGCache (arXiv 2404.12457) reports: 3 % of the documents get
    60 % of the requests, which Zipf 1.0 over 5,000 documents gives.

    Parameters: one instruction of 512 tokens, then two documents (lognormal, median 1,800 tokens,
    sigma 0.6) in the order of retrieval, a question (60, 0.6), an answer (120, 0.8); 2 requests a
    second (Poisson).
    """
    documents = _shared_texts(dice, "document", 5_000, 1_800, 0.6)
    popularity = Popularity.zipf(len(documents), 1.0)
    arrival_s = 0.0
    for private in count():
        arrival_s += dice.exponential(0.5)
        first, second = dice.rank(popularity), dice.rank(popularity)
        found = [documents[first]] + ([documents[second]] if second != first else [])
        prompt = (("instruction", 0), 512), *found, (private, dice.tokens(60, 0.6))
        yield Request(arrival_s, prompt, dice.tokens(120, 0.8))


def scan(dice: Dice) -> Iterator[Request]:
    """Long prompts that never come back, among a small set that does.

    Follows no trace: it is the pattern that LRU is weakest at and that scan-resistant policies
    such as ARC (FAST'03) were made for.

    Parameters: 40 % of requests ask a question (60 tokens, sigma 0.6) below one of 64 hot prompts
    (lognormal, median 4,000, 0.6), popularity Zipf 0.9; the others are one-shot prompts (24,000,
    0.8); answers (150, 0.8); 1 request a second (Poisson).
    """
    hot = _shared_texts(dice, "hot", 64, 4_000, 0.6)
    popularity = Popularity.zipf(len(hot), 0.9)
    arrival_s = 0.0
    for private in count():
        arrival_s += dice.exponential(1.0)
        prompt: tuple[Piece, ...]
        if dice.chance(0.4):
            prompt = hot[dice.rank(popularity)], (private, dice.tokens(60, 0.6))
        else:
            prompt = ((private, dice.tokens(24_000, 0.8)),)
        yield Request(arrival_s, prompt, dice.tokens(150, 0.8))


KINDS: dict[str, Callable[[Dice], Iterator[Request]]] = {
    "chat": chat,
    "agent": agent,
    "rag": rag,
    "scan": scan,
}


def generate(kind: str, seed: int, num_requests: int = DEFAULT_REQUESTS) -> Iterator[bytes]:
    """Lines of Mooncake JSONL, in order of arrival.

    Parameters
    ----------
    kind : a key of `KINDS`
    seed : not negative; equal seeds give equal bytes
    num_requests : number of lines

    Yields
    ------
    bytes
        One line with its line end.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    if num_requests < 1:
        raise ValueError(f"num_requests is {num_requests}; it must be at least 1")
    return _lines(islice(KINDS[kind](Dice(seed)), num_requests))


def _lines(requests: Iterator[Request]) -> Iterator[bytes]:
    names: _Names = {}
    for request in requests:
        record = {
            "timestamp": round(request.arrival_s * 1000),
            "input_length": _length(request.prompt),
            "output_length": request.output_tokens,
            "hash_ids": _hash_ids(request.prompt, names),
        }
        yield json.dumps(record).encode() + b"\n"


def _hash_ids(prompt: tuple[Piece, ...], names: _Names) -> list[int]:
    """One id a block, the partial last one included; ids are given in order of appearance."""
    hash_ids: list[int] = []
    parent = -1
    content: list[tuple[Hashable, int, int]] = []
    room = BLOCK_TOKENS
    for name, tokens in prompt:
        position = 0
        while position < tokens:
            taken = min(room, tokens - position)
            content.append((name, position, taken))
            position += taken
            room -= taken
            if room == 0:
                parent = names.setdefault((parent, tuple(content)), len(names))
                hash_ids.append(parent)
                content.clear()
                room = BLOCK_TOKENS
    if content:
        hash_ids.append(names.setdefault((parent, tuple(content)), len(names)))
    return hash_ids


def _length(prompt: Sequence[Piece]) -> int:
    return sum(tokens for _, tokens in prompt)


def _shared_texts(
    dice: Dice, word: str, num_texts: int, median_tokens: float, sigma: float
) -> list[Piece]:
    return [((word, rank), dice.tokens(median_tokens, sigma)) for rank in range(num_texts)]


def _interleave(
    dice: Dice, session: Callable[[float], Iterator[Request]], mean_gap_s: float
) -> Iterator[Request]:
    """Requests in order of arrival, of sessions that start with exponential gaps."""
    waiting: list[tuple[float, int, Request, Iterator[Request]]] = []
    start_s = 0.0
    for number in count():
        requests = session(start_s)
        start_s += dice.exponential(mean_gap_s)
        if (first := next(requests, None)) is not None:
            heapq.heappush(waiting, (first.arrival_s, number, first, requests))
        while waiting and waiting[0][0] <= start_s:
            _, number, request, requests = waiting[0]
            yield request
            if (following := next(requests, None)) is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (following.arrival_s, number, following, requests))

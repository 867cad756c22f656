"""The hazard policy: what it learns from requests, and whatever may come its way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count, cycle

import numpy as np
from models.beside import Beside
from models.chains import rows
from models.small_traces import hashes

from kvcore import PrefixCache, RequestInfo

SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Ask:
    at_s: float
    tokens: tuple[int, ...]
    kind: str = ""
    output_tokens: int = 100

    def request(self) -> RequestInfo:
        return RequestInfo(kind=self.kind, arrival_us=round(self.at_s * SECOND))


Load = Sequence[Ask]


def serve(cache: PrefixCache, ask: Ask, request: RequestInfo) -> tuple[int, list[bytes]]:
    """Answers how many blocks were there, and what was evicted."""
    prompt = hashes(ask.tokens)
    with cache.acquire(prompt, request) as lease, cache.reserve(prompt, request) as reservation:
        reservation.commit()
        return lease.num_blocks, rows(reservation.evicted.hashes)


def run(cache: PrefixCache, load: Load) -> list[int]:
    """How many blocks of each request were there."""
    found = []
    for ask in load:
        request = ask.request()
        found.append(serve(cache, ask, request)[0])
        cache.finish(request, ask.output_tokens)
    cache.check_invariants()
    return found


def hits(policy: str, num_blocks: int, load: Load) -> int:
    return sum(run(PrefixCache(num_blocks, policy), load))


def in_order(*loads: Iterable[Ask]) -> Load:
    return sorted((ask for load in loads for ask in load), key=lambda ask: ask.at_s)


private = count(1000)


def fresh(blocks: int) -> tuple[int, ...]:
    """A prompt that nobody has asked for."""
    return (next(private),) * blocks


def repeated(
    every_s: float, until_s: float, prompts: int, kind: str = "", blocks: int = 4, from_s: float = 0
) -> Iterator[Ask]:
    """The same prompts in a circle."""
    circle = cycle([fresh(blocks) for _ in range(prompts)])
    for at_s in np.arange(from_s, until_s, every_s):
        yield Ask(float(at_s), next(circle), kind)


def one_time(every_s: float, until_s: float, kind: str = "", from_s: float = 0) -> Iterator[Ask]:
    """Prompts that never come back."""
    for at_s in np.arange(from_s, until_s, every_s):
        yield Ask(float(at_s) + 0.01, fresh(4), kind)


def twice(every_s: float, after_s: float, until_s: float, kind: str = "") -> Iterator[Ask]:
    """Prompts that come back once, so long after they came."""
    for at_s in np.arange(0, until_s, every_s):
        prompt = fresh(4)
        yield Ask(float(at_s) + 0.02, prompt, kind)
        yield Ask(float(at_s) + 0.02 + after_s, prompt, kind)


# --- What it learns -----------------------------------------------------------------------------


def test_scans_do_not_displace_what_comes_back() -> None:
    load = in_order(repeated(1, 1500, prompts=20), one_time(0.25, 1500))
    possible = 4 * (1500 - 20)
    assert hits("lru", 120, load) == 0
    assert hits("hazard", 120, load) > 0.95 * possible


def test_a_kind_that_never_returns_leaves_first() -> None:
    load = in_order(repeated(1, 1000, prompts=30, kind="chat"), one_time(0.5, 1000, kind="batch"))
    chat = {block for ask in load if ask.kind == "chat" for block in rows(hashes(ask.tokens))}
    cache = PrefixCache(200, "hazard")
    half = len(load) // 2
    run(cache, load[:half])
    evicted = [block for ask in load[half:] for block in serve(cache, ask, ask.request())[1]]
    assert len(evicted) > 1000
    assert not chat.intersection(evicted)


def test_time_matters() -> None:
    """What comes back within 10 s need not be kept longer, so there is room for what takes 1000."""
    load = in_order(twice(1, 10, 3000, kind="tool"), twice(20, 1000, 3000, kind="chat"))

    def found(policy: str, kind: str) -> int:
        of_kind = [ask.kind == kind for ask in load]
        return int(np.array(run(PrefixCache(300, policy), load))[of_kind].sum())

    assert (found("lru", "tool"), found("lru", "chat")) == (12_000, 0)
    assert found("hazard", "tool") == 12_000
    assert found("hazard", "chat") > 0.9 * 4 * 150


def test_sessions_have_a_pace() -> None:
    """Some are back after 20 s, others after 250 s; nothing else tells them apart."""

    def turns(sessions: int, every_s: float, from_s: float) -> Iterator[Ask]:
        prompts = [fresh(2) for _ in range(sessions)]
        for number, at_s in enumerate(np.arange(from_s, 2000, every_s)):
            which = number % sessions
            yield Ask(float(at_s), prompts[which])
            prompts[which] = prompts[which] + fresh(2) if len(prompts[which]) < 20 else fresh(2)

    load = in_order(turns(20, 1, from_s=0), turns(1000, 0.25, from_s=0.01))
    assert hits("lru", 250, load) < 500
    assert hits("hazard", 250, load) > 13_000  # of 18,000 that those find that come back soon


def test_kinds_may_swap_roles() -> None:
    def part(returns: str, never: str, from_s: float) -> Load:
        until_s = from_s + 1000
        return in_order(
            repeated(1, until_s, 30, returns, from_s=from_s),
            one_time(0.25, until_s, never, from_s=from_s),
        )

    first, second = part("a", "b", 0), part("b", "a", 1000)
    cache = PrefixCache(160, "hazard")
    last = len(second) // 2
    run(cache, first)
    swapped = sum(run(cache, second)[last:])
    afresh = sum(run(PrefixCache(160, "hazard"), second)[last:])
    assert swapped > 0.95 * afresh > 0.9 * 4 * 500


def test_the_length_of_the_answer_matters() -> None:
    """After short answers users come back, after long ones they do not."""
    short = twice(1, 100, 1500)
    load = in_order(short, (replace(ask, output_tokens=4000) for ask in one_time(0.25, 1500)))
    unknown = [replace(ask, output_tokens=100) for ask in load]
    assert hits("hazard", 500, load) > 5 * hits("hazard", 500, unknown)


# --- Whatever may come its way ------------------------------------------------------------------


def mixed(seed: int, requests: int = 1500) -> Load:
    """Prompts that grow, fork, come back and never do, at any pace."""
    rng = random.Random(seed)
    prompts = [fresh(3) for _ in range(20)]
    load, at_s = [], 0.0
    for _ in range(requests):
        at_s += 10 ** rng.uniform(-2, 1)
        which = rng.randrange(len(prompts))
        prompt = prompts[which] + fresh(rng.randint(0, 3))
        prompts[which] = prompt if rng.random() < 0.8 and len(prompt) < 30 else fresh(3)
        load.append(Ask(at_s, prompt, f"kind{which % 4}", rng.choice([1, 30, 1000])))
    return load


def evictions(
    load: Load,
    requests: Iterable[RequestInfo] | None = None,
    cache: PrefixCache | None = None,
) -> list[list[bytes]]:
    """What each request evicted; it ends when the next one has begun."""
    cache = cache or PrefixCache(100, "hazard")
    evicted = []
    at_work: list[tuple[RequestInfo, int]] = []
    for ask, request in zip(load, requests or map(Ask.request, load), strict=True):
        evicted.append(serve(cache, ask, request)[1])
        if at_work:
            cache.finish(*at_work.pop())
        at_work.append((request, ask.output_tokens))
    cache.check_invariants()
    return evicted


def test_other_caches_requests_change_nothing() -> None:
    """Requests are told apart by a number that all caches of a process share."""
    load, rng = mixed(1), random.Random(1)

    def among_others() -> Iterator[RequestInfo]:
        for ask in load:
            for _ in range(rng.choice([0, 1, 4095])):
                RequestInfo()
            yield ask.request()

    alone = evictions(load)
    assert sum(map(len, alone)) > 1000
    assert evictions(load) == alone
    assert evictions(load, among_others()) == alone


def test_requests_without_a_time_come_a_tenth_of_a_second_apart() -> None:
    load = mixed(2)
    untimed = [RequestInfo(kind=ask.kind) for ask in load]
    timed = [replace(ask, at_s=(number + 1) / 10) for number, ask in enumerate(load)]
    assert evictions(load, untimed) == evictions(timed) != evictions(load)


def test_time_does_not_go_back() -> None:
    rng = random.Random(3)
    load = [replace(ask, at_s=max(0, ask.at_s - 20 * rng.random())) for ask in mixed(3)]
    at_s = list(accumulate((ask.at_s for ask in load), max))
    forward = [replace(ask, at_s=at) for ask, at in zip(load, at_s, strict=True)]
    assert forward != load
    assert evictions(load) == evictions(forward)


def test_days_may_pass() -> None:
    """What was cached before makes way at once; what was learnt is still known."""
    week_s = 7 * 86_400
    before = in_order(repeated(1, 1000, 20), one_time(0.25, 1000))
    after = in_order(
        repeated(1, week_s + 300, 20, from_s=week_s), one_time(0.25, week_s + 300, from_s=week_s)
    )
    cache = PrefixCache(120, "hazard")
    run(cache, before)

    assert sum(run(cache, after)) > 0.9 * 4 * (300 - 20) > hits("hazard", 120, after)


def test_a_request_may_branch() -> None:
    """One request, several chains: the cache does what its model does, and pins are kept."""
    rng = random.Random(4)
    both = Beside(60, "hazard")
    for number in range(300):
        stem = [rng.randrange(8)] * rng.randint(0, 6)
        request = RequestInfo(arrival_us=number * SECOND)
        for _ in range(rng.randint(1, 4)):
            both.serve(stem + [rng.randrange(50)] * rng.randint(0, 5), request)
        both.finish(request, 100)
        if number % 3 == 0:
            both.acquire(stem, request)
        if len(both.leases) > 5:
            both.drop_lease(both.leases[0])
    both.drop_everything()
    both.check()


def test_the_end_of_a_request_that_nobody_saw_changes_nothing() -> None:
    load = mixed(5)

    def with_strays() -> Iterator[RequestInfo]:
        for ask in load:
            stray = RequestInfo(kind=ask.kind, arrival_us=0)
            cache.finish(stray, 7)
            yield ask.request()

    cache = PrefixCache(100, "hazard")
    assert evictions(load, with_strays(), cache) == evictions(load)


def test_a_request_may_end_more_than_once() -> None:
    """The last word on its answer counts."""
    load = mixed(6)
    cache = PrefixCache(100, "hazard")
    for ask in load:
        request = ask.request()
        serve(cache, ask, request)
        for output_tokens in (0, 2**63 - 1, ask.output_tokens):
            cache.finish(request, output_tokens)
    cache.check_invariants()


def test_requests_that_never_finish() -> None:
    """Nothing is known of their answers, and there are more of them than are kept in mind."""
    load = in_order(repeated(1, 1500, prompts=20), one_time(0.25, 1500))
    cache = PrefixCache(120, "hazard")
    requests = [ask.request() for ask in load]
    assert len(requests) > 4096
    found = [serve(cache, ask, request)[0] for ask, request in zip(load, requests, strict=True)]
    assert sum(found) > 0.95 * 4 * (1500 - 20)
    for request in requests:
        cache.finish(request, 100)
    for ask, request in zip(load[:50], requests, strict=False):
        serve(cache, ask, request)
    cache.check_invariants()


def test_what_is_pinned_stays_while_ranks_change() -> None:
    """Many ranks are out of date at once, and what comes to the top may be pinned."""
    cache = PrefixCache(600, "hazard")
    leases = []
    for number in range(800):
        ask = Ask(number / 10, (number,))
        request = ask.request()
        serve(cache, ask, request)
        cache.finish(request, ask.output_tokens)
        if number % 2 == 0:
            leases.append((hashes(ask.tokens), cache.acquire(hashes(ask.tokens), request)))
        assert all(cache.match(prompt) == lease.num_blocks for prompt, lease in leases)
    cache.check_invariants()


def test_memory_levels_off_over_prompts_of_one_block() -> None:
    """Each is a cohort of its own, and a ghost for as long as 65,536 others."""
    cache = PrefixCache(100, "hazard")
    prompts = np.random.default_rng(6).integers(0, 256, (100_000, 1, 16), np.uint8)
    after = []
    for number, prompt in enumerate(prompts, start=1):
        cache.reserve(prompt).commit()
        if number in (70_000, 100_000):
            after.append(cache.stats().metadata_bytes)
    assert after[1] == after[0]
    assert after[1] < 250 * 65_536
    cache.check_invariants()


def test_a_chain_longer_than_all_ghosts() -> None:
    """Beside 65,536 ghosts of one block each it takes more records than there are."""
    rng = np.random.default_rng(0)
    cache = PrefixCache(1, "hazard")
    for block in rng.integers(0, 256, (65_600, 1, 16), dtype=np.uint8):
        cache.reserve(block).commit()
    reservation = cache.reserve(rng.integers(0, 256, (4_300_000, 16), dtype=np.uint8))
    assert len(reservation.block_ids) <= 1
    cache.check_invariants()

"""Pins, kept chains, hints of a next use, and admission by second use."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from models.chains import chain_of, hashes_of, packed, rows
from test_prefix_cache_stateful import some_tokens

from kvcore import NEVER, POLICIES, BlockHasher, PrefixCache, RequestInfo, TenantQuota
from kvcore.sim import Capacity, Trace, read_trace

SECOND = 1_000_000


def serve(
    cache: PrefixCache,
    tokens: list[int],
    at_s: float = 0,
    *,
    next_s: float | None = None,
    **about: Any,
) -> int:
    request = RequestInfo(arrival_us=round(at_s * SECOND), **about)
    with cache.acquire(hashes_of(tokens), request) as lease:
        cache.reserve(hashes_of(tokens), request).commit()
    next_use_us = None if next_s is None else NEVER if next_s == NEVER else round(next_s * SECOND)
    cache.finish(request, next_use_us=next_use_us)
    return lease.num_blocks


def scan(cache: PrefixCache, num_blocks: int, at_s: float = 0, first: int = 1000) -> None:
    for token in range(first, first + num_blocks):
        serve(cache, [token], at_s)


# --- Arguments ----------------------------------------------------------------------------------


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"max_pinned must be from 0 to 1, got 1\.5"):
        PrefixCache(10, "lru", max_pinned=1.5)
    with pytest.raises(ValueError, match="max_kept must be from 0 to 1, got nan"):
        PrefixCache(10, "lru", max_kept=float("nan"))
    with pytest.raises(TypeError, match="max_kept must be a number, got str 'x'"):
        PrefixCache(10, "lru", max_kept="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="admission must be one of all, second_use, got str 'x'"):
        PrefixCache(10, "lru", admission="x")
    cache = PrefixCache(10, "lru", max_kept=0.5)
    with pytest.raises(ValueError, match=r"until_us must be an int from 0 to .* got int -1"):
        cache.keep(hashes_of([1]), -1)
    with pytest.raises(ValueError, match=r"next_use_us must be an int from 0 to .* got int -1"):
        cache.finish(RequestInfo(), next_use_us=-1)


def test_hints_need_a_bound() -> None:
    cache = PrefixCache(10, "lru")
    with pytest.raises(ValueError, match="next_use_us needs a cache with max_kept above 0"):
        cache.finish(RequestInfo(), next_use_us=5)
    with pytest.raises(ValueError, match="until_us needs a cache with max_kept above 0"):
        cache.keep(hashes_of([1]), 5)
    serve(cache, [1] * 3, next_use_us=NEVER)  # of a request it is not heeded
    assert cache.stats().kept_blocks == 0


# --- Pins ---------------------------------------------------------------------------------------


def test_a_pin_stays_until_it_is_released() -> None:
    cache = PrefixCache(10, "lru", max_pinned=0.4)
    serve(cache, [1] * 6)
    pin = cache.pin(hashes_of([1] * 6))
    assert pin.num_blocks == 4  # as far as the bound allows
    assert cache.pin(hashes_of([1] * 6)).num_blocks == 0
    assert cache.stats().pinned_blocks == 4
    assert cache.stats().num_leases == 1
    scan(cache, 30)
    assert cache.match(hashes_of([1] * 6)) == 4
    pin.release()
    pin.release()
    assert cache.stats().pinned_blocks == 0
    assert cache.pin(hashes_of([1] * 6)).num_blocks == 4
    scan(cache, 30, first=5000)
    assert cache.match(hashes_of([1] * 6)) == 0


def test_a_pin_is_no_use() -> None:
    cache = PrefixCache(10, "lru")
    serve(cache, [1] * 5)
    serve(cache, [2] * 5)
    cache.pin(hashes_of([1] * 5)).release()
    scan(cache, 5)
    assert cache.match(hashes_of([1] * 5)) == 0


def test_what_is_retained_has_no_bound_and_is_no_use() -> None:
    cache = PrefixCache(10, "lru", max_pinned=0.1)
    serve(cache, [1] * 5)
    serve(cache, [2] * 5)
    lease = cache.retain(hashes_of([1] * 6))
    assert lease.num_blocks == 5
    assert cache.stats().pinned_blocks == 0
    scan(cache, 5)
    assert cache.match(hashes_of([1] * 5)) == 5
    assert cache.match(hashes_of([2] * 5)) == 0
    lease.release()
    scan(cache, 1, first=5000)
    assert cache.match(hashes_of([1] * 5)) == 4
    assert cache.retain(hashes_of([9])).num_blocks == 0


# --- Kept chains --------------------------------------------------------------------------------


def test_a_kept_chain_stays_until_its_time_is_over() -> None:
    cache = PrefixCache(10, "lru", max_kept=0.5)
    serve(cache, [1] * 5)
    assert cache.keep(hashes_of([1] * 5), 60 * SECOND) == 5
    assert cache.stats().kept_blocks == 5
    scan(cache, 20, at_s=60)
    assert cache.match(hashes_of([1] * 5)) == 5
    scan(cache, 20, at_s=60.1)
    assert cache.stats().kept_blocks == 0
    assert cache.match(hashes_of([1] * 5)) == 0


def test_keeping_again_replaces_the_time() -> None:
    cache = PrefixCache(10, "lru", max_kept=1)
    serve(cache, [1] * 5, at_s=5)
    cache.keep(hashes_of([1] * 5), NEVER)
    assert cache.keep(hashes_of([1] * 5), 6 * SECOND) == 5
    scan(cache, 20, at_s=7)
    assert cache.stats().kept_blocks == 0
    assert cache.match(hashes_of([1] * 5)) == 0
    serve(cache, [1] * 5, at_s=8)
    cache.keep(hashes_of([1] * 5), NEVER)
    assert cache.keep(hashes_of([1] * 5), 0) == 0
    assert cache.stats().kept_blocks == 0


def test_what_is_kept_the_longest_goes_first() -> None:
    cache = PrefixCache(12, "lru", max_kept=0.75)
    for token, until_us in ((1, 20), (2, NEVER), (3, NEVER), (4, 50)):
        serve(cache, [token] * 3)
        cache.keep(hashes_of([token] * 3), until_us * SECOND if until_us != NEVER else NEVER)
    assert cache.stats().kept_blocks == 9  # the older of those for good had to go
    scan(cache, 3)
    assert [cache.match(hashes_of([token] * 3)) for token in (1, 2, 3, 4)] == [3, 0, 3, 3]
    serve(cache, [9] * 5)  # nothing else can leave
    assert [cache.match(hashes_of([token] * 3)) for token in (1, 3, 4)] == [3, 1, 3]
    serve(cache, [8] * 9)
    assert [cache.match(hashes_of([token] * 3)) for token in (1, 3, 4)] == [3, 0, 0]


def test_a_block_counts_once() -> None:
    cache = PrefixCache(20, "lru", max_kept=0.5)
    for end in (7, 8):
        serve(cache, [1] * 6 + [end])
        cache.keep(hashes_of([1] * 6 + [end]), NEVER)
    assert cache.stats().kept_blocks == 8
    serve(cache, [1] * 3 + [5])  # parts the kept span
    cache.check_invariants()
    assert cache.stats().kept_blocks == 8


# --- The next use -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["request", "finish"])
def test_a_session_is_kept_until_it_is_expected_and_a_grace(where: str) -> None:
    for wait_s, grace_s in ((10, 10), (100, 25)):
        for late_s, kept in ((0, 5), (grace_s, 5), (grace_s + 1, 0)):
            cache = PrefixCache(10, "lru", max_kept=0.5)
            if where == "finish":
                serve(cache, [1] * 5, next_s=wait_s)
            else:
                serve(cache, [1] * 5, next_use_us=wait_s * SECOND)
            assert cache.stats().kept_blocks == 5
            scan(cache, 20, at_s=wait_s + late_s)
            assert cache.match(hashes_of([1] * 5)) == kept


def test_what_finish_says_replaces_what_the_request_said() -> None:
    cache = PrefixCache(10, "lru", max_kept=0.5)
    serve(cache, [1] * 5, at_s=50, next_use_us=NEVER, next_s=100)
    assert cache.stats().kept_blocks == 5
    serve(cache, [2] * 3, at_s=50, next_use_us=90 * SECOND, next_s=1)  # long over
    assert cache.stats().kept_blocks == 5


def test_when_the_session_is_back_its_hint_is_over() -> None:
    cache = PrefixCache(10, "lru", max_kept=0.5)
    serve(cache, [1] * 5, session="s", next_s=1000)
    assert cache.stats().kept_blocks == 5
    serve(cache, [1] * 3, session="other")
    assert cache.stats().kept_blocks == 5
    serve(cache, [2] * 3, session="s")
    assert cache.stats().kept_blocks == 0


def test_what_never_comes_back_goes_first() -> None:
    cache = PrefixCache(12, "lru", max_kept=0.5)
    serve(cache, [1] * 4)
    serve(cache, [2] * 4)
    serve(cache, [1, 1, 3, 3], next_s=NEVER)  # two blocks are another's as well
    serve(cache, [4] * 4)
    serve(cache, [5] * 2)
    matches = [cache.match(hashes_of(tokens)) for tokens in ([1] * 4, [2] * 4, [1, 1, 3, 3])]
    assert matches == [2, 4, 2]


def test_what_another_request_used_since_is_not_dismissed() -> None:
    for others, left in ((0, 0), (1, 4)):
        cache = PrefixCache(8, "lru", max_kept=0.5)
        serve(cache, [2] * 4)
        request = RequestInfo()
        cache.reserve(hashes_of([1] * 4), request).commit()
        for _ in range(others):
            serve(cache, [1] * 4)
        cache.finish(request, next_use_us=NEVER)
        scan(cache, 4)
        assert cache.match(hashes_of([1] * 4)) == left


def test_what_is_leased_is_not_dismissed() -> None:
    cache = PrefixCache(8, "lru", max_kept=0.5)
    request = RequestInfo()
    cache.reserve(hashes_of([1] * 4), request).commit()
    with cache.acquire(hashes_of([1] * 4), request):
        cache.finish(request, next_use_us=NEVER)
        scan(cache, 20)
        assert cache.match(hashes_of([1] * 4)) == 4
    cache.check_invariants()


def test_a_hint_keeps_what_its_request_used_and_what_is_written() -> None:
    cache = PrefixCache(4, "lru", max_kept=1)
    request = RequestInfo()
    cache.reserve(hashes_of([1] * 4), request).commit()
    serve(cache, [2] * 4)  # takes its place
    cache.finish(request, next_use_us=60 * SECOND)
    assert cache.stats().kept_blocks == 0
    serve(cache, [1] * 2)
    with cache.reserve(hashes_of([1] * 4), request):
        cache.finish(request, next_use_us=60 * SECOND)
        assert cache.stats().kept_blocks == 2


def test_what_a_tenant_keeps_does_not_keep_another_from_its_guarantee() -> None:
    quotas = {"a": TenantQuota(0.5), "b": TenantQuota()}
    cache = PrefixCache(10, "lru", quotas, max_kept=1)
    serve(cache, [1] * 10, tenant="b")
    cache.keep(hashes_of([1] * 10), NEVER)
    serve(cache, [2] * 5, tenant="b")  # it lets its own go
    assert cache.match(hashes_of([2] * 5)) == 5
    cache.keep(hashes_of([2] * 5), NEVER)
    cache.keep(hashes_of([1] * 5), NEVER)
    serve(cache, [3] * 9, tenant="a")
    assert cache.tenant_stats()["a"].used_blocks == 5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(5))
def test_any_life(policy: str, seed: int) -> None:
    """What is pinned does not leave, bounds hold, nothing leaks; with tenants and without."""
    rng = random.Random(seed)
    for _ in range(5):
        num_blocks = rng.randint(1, 60)
        share = rng.choice([0.2, 0.5, 1])
        quotas = {"a": TenantQuota(0.3), "b": TenantQuota()} if rng.random() < 0.5 else None
        cache = PrefixCache(num_blocks, policy, quotas, max_pinned=share, max_kept=share)
        held: list[Any] = []
        pinned: list[tuple[Any, list[bytes]]] = []
        now_us = 0
        for _ in range(80):
            now_us += rng.choice([0, SECOND, 20 * SECOND])
            chain = chain_of(some_tokens(rng))
            names = {"tenant": rng.choice("ab"), "session": rng.choice(["", "s", "t"])}
            request = RequestInfo(**names, arrival_us=now_us)
            kind = rng.random()
            if kind < 0.6:
                lease = cache.acquire(packed(chain), request)
                reservation = cache.reserve(packed(chain), request)
                lost = set(rows(reservation.evicted.hashes))
                assert not any(lost & set(blocks) for _, blocks in pinned)
                reservation.commit(rng.randint(0, len(reservation.block_ids)))
                held = [*held, lease, reservation][-rng.randint(1, 5) :]
                next_use_us = rng.choice([None, NEVER, now_us + 50 * SECOND, 0])
                cache.finish(request, 10, next_use_us)
            elif kind < 0.8:
                cache.keep(packed(chain), rng.choice([NEVER, now_us + 30 * SECOND, 0]))
            else:
                pin = cache.pin(packed(chain))
                pinned = [*pinned, (pin, chain[: pin.num_blocks])][-rng.randint(1, 3) :]
            cache.check_invariants()
            stats = cache.stats()
            assert stats.pinned_blocks == sum(len(blocks) for _, blocks in pinned)
            assert max(stats.pinned_blocks, stats.kept_blocks) <= share * num_blocks
        held.clear()
        pinned.clear()
        del lease, reservation, pin
        scan(cache, 1, at_s=now_us / SECOND + 1e6)  # what is kept for a time has lapsed
        cache.check_invariants()
        assert cache.stats().in_flight_blocks == cache.stats().pinned_blocks == 0


def test_tenants_sessions_are_their_own() -> None:
    quotas = {"a": TenantQuota(guarantee=0.5), "b": TenantQuota(guarantee=0.5)}
    cache = PrefixCache(20, "lru", quotas, max_kept=0.5)
    for tenant, tokens, next_use_us in (("a", [1] * 5, 10**9), ("b", [2] * 5, None)):
        request = RequestInfo(tenant=tenant, session="42", arrival_us=1)
        cache.reserve(hashes_of(tokens), request).commit()
        cache.finish(request, next_use_us=next_use_us)
        assert cache.stats().kept_blocks == 5


def test_what_is_dismissed_while_leased_still_goes_first() -> None:
    cache = PrefixCache(4, "lru", max_kept=0.5)
    for token in (1, 2):
        serve(cache, [token])
    request = RequestInfo()
    cache.reserve(hashes_of([3]), request).commit()
    lease = cache.acquire(hashes_of([3]), request)
    cache.finish(request, next_use_us=NEVER)
    for token in (4, 5):  # the second asks for room
        serve(cache, [token])
    lease.release()
    serve(cache, [6])
    assert [cache.match(hashes_of([token])) for token in range(1, 7)] == [0, 1, 0, 1, 1, 1]


# --- Admission ----------------------------------------------------------------------------------


def test_a_full_cache_admits_what_comes_a_second_time() -> None:
    cache = PrefixCache(10, "lru", admission="second_use")
    serve(cache, [1] * 8)
    assert serve(cache, [2] * 4) == 0
    assert cache.match(hashes_of([2] * 4)) == 2  # those that found room
    serve(cache, [2] * 3 + [3])
    assert cache.match(hashes_of([2] * 4)) == 3  # the third came before, the other did not
    assert cache.match(hashes_of([2] * 3 + [3])) == 3
    serve(cache, [2] * 3 + [3])
    assert cache.match(hashes_of([2] * 3 + [3])) == 4


def test_admission_keeps_scans_out() -> None:
    found = []
    for admission in ("all", "second_use"):
        cache = PrefixCache(40, "lru", admission=admission)
        rng = random.Random(0)
        found.append(0)
        for number in range(2000):
            found[-1] += serve(cache, [rng.randint(0, 9)] * 4)
            serve(cache, [1000 + number] * 12)
    assert found[1] > 1.5 * found[0]


# --- Traces -------------------------------------------------------------------------------------


def next_turns(trace: Trace) -> list[int]:
    """When the session of each request really is back."""
    answer = [NEVER] * trace.num_requests
    latest: dict[int, int] = {}
    for i in reversed(range(trace.num_requests)):
        session = int(trace.session[i])
        answer[i] = latest.get(session, NEVER)
        latest[session] = int(trace.arrival_us[i])
    return answer


def hit_percent(trace: Trace, num_blocks: int, policy: str, hints: list[int] | None) -> float:
    cache = PrefixCache(num_blocks, policy, max_kept=0.5 if hints else 0)
    hash_chain = BlockHasher(1, "xxh3_128").hash
    offsets = trace.offsets.tolist()
    found = 0
    for i, (begin, end) in enumerate(pairwise(offsets)):
        hashes = hash_chain(trace.block_ids[begin:end])
        request = RequestInfo(session=str(trace.session[i]), arrival_us=int(trace.arrival_us[i]))
        with cache.acquire(hashes, request) as lease:
            cache.reserve(hashes, request).commit()
        found += lease.num_blocks
        cache.finish(request, next_use_us=hints[i] if hints else None)
    return 100 * found / trace.num_blocks


def test_hints_on_the_agents_trace() -> None:
    path = Path(__file__).parents[2] / "shared/traces/agents.kvt.csv.zst"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    trace = read_trace(path)
    num_blocks = Capacity("1%").blocks(trace.num_unique_blocks)
    true = next_turns(trace)
    rng = random.Random(0)
    wrong = [int(now) + round(rng.expovariate(1 / 60e6)) for now in trace.arrival_us]
    without, with_true, with_wrong = (
        hit_percent(trace, num_blocks, "lru", hints) for hints in (None, true, wrong)
    )
    assert with_true > without + 10
    assert with_wrong > without - 1


def test_hints_on_a_generated_workload() -> None:
    """Sessions that come back when they say so, between scans that would push them out."""
    hits = []
    for hinted in (False, True):
        cache = PrefixCache(200, "lru", max_kept=0.5)
        hits.append(0)
        for turn in range(20):
            for session in range(10):
                at_s = 100 * turn + 10 * session
                next_s = at_s + 100 if hinted else None
                tokens = [session] * (5 + turn // 4)
                hits[-1] += serve(cache, tokens, at_s, next_s=next_s, session=str(session))
                serve(cache, [10_000 + at_s] * 30, at_s + 5)
    assert hits[0] == 0
    assert hits[1] > 0.9 * 20 * 10 * 5

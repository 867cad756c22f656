"""``PrefixCache`` by example: what each call promises, read from top to bottom."""

from __future__ import annotations

import numpy as np
import pytest
from models.chains import hashes_of
from support.prefix_cache import BYPASSED, NEW, NO_HASHES, numbers, put

from kvcore import (
    POLICIES,
    PrefixCache,
    RequestInfo,
)

# --- A new cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_new_cache_is_empty(policy: str) -> None:
    cache = PrefixCache(num_blocks=100, policy=policy)
    assert cache.num_blocks == 100
    assert cache.policy == policy
    assert cache.match(hashes_of([1, 2, 3])) == 0
    assert numbers(cache.stats()) == {
        "num_blocks": 100,
        "used_blocks": 0,
        "free_blocks": 100,
        "in_flight_blocks": 0,
        "num_leases": 0,
        "num_spans": 0,
        "evictions": 0,
        "finished_requests": 0,
    }
    cache.check_invariants()


def test_auto_is_the_default() -> None:
    assert PrefixCache(1).policy == "auto"
    assert repr(PrefixCache(1)) == "PrefixCache(num_blocks=1, policy='auto')"


# --- match ---------------------------------------------------------------------------------------


def test_match_counts_committed_blocks_from_the_start() -> None:
    cache = PrefixCache(100)
    put(cache, hashes_of([1, 2, 3, 4]))
    assert cache.match(hashes_of([1, 2, 3, 4])) == 4
    assert cache.match(hashes_of([1, 2])) == 2
    assert cache.match(hashes_of([1, 2, 3, 4, 5, 6])) == 4
    assert cache.match(hashes_of([1, 2, 9, 9])) == 2
    assert cache.match(hashes_of([2, 3, 4])) == 0


def test_a_block_in_the_middle_of_a_chain_is_not_found_by_itself() -> None:
    cache = PrefixCache(100)
    chain = hashes_of([1, 2, 3, 4])
    put(cache, chain)
    assert cache.match(np.ascontiguousarray(chain[2:])) == 0


def test_match_has_no_side_effect() -> None:
    cache = PrefixCache(100)
    put(cache, hashes_of([1, 2, 3, 4]))
    before = numbers(cache.stats())
    cache.match(hashes_of([1, 2, 9]))
    assert numbers(cache.stats()) == before


# --- acquire -------------------------------------------------------------------------------------


def test_acquire_answers_the_ids_of_the_committed_prefix() -> None:
    cache = PrefixCache(100)
    ids = put(cache, hashes_of([1, 2, 3, 4]))
    lease = cache.acquire(hashes_of([1, 2, 3, 9]))
    assert lease.num_blocks == 3
    assert lease.block_ids.dtype == np.uint32
    assert lease.block_ids.tolist() == ids[:3]
    assert cache.stats().num_leases == 1


def test_acquire_of_what_is_not_there_pins_nothing() -> None:
    cache = PrefixCache(100)
    lease = cache.acquire(hashes_of([1, 2]))
    assert lease.num_blocks == 0
    assert lease.block_ids.tolist() == []
    assert cache.stats().num_leases == 0
    lease.release()


def test_a_lease_pins_its_blocks_and_all_before_them() -> None:
    cache = PrefixCache(4)
    ids = put(cache, hashes_of([1, 2, 3, 4]))
    lease = cache.acquire(hashes_of([1, 2, 3]))
    crowd = cache.reserve(hashes_of([9] * 4))
    assert crowd.states.tolist() == [NEW, BYPASSED, BYPASSED, BYPASSED]
    assert crowd.evicted.block_ids.tolist() == ids[3:]  # the one that nobody pinned
    assert cache.match(hashes_of([1, 2, 3, 4])) == 3
    assert lease.block_ids.tolist() == ids[:3]


def test_what_was_pinned_may_leave_after_the_release() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1] * 4))
    cache.acquire(hashes_of([1] * 4)).release()
    put(cache, hashes_of([2] * 4))
    assert cache.match(hashes_of([1] * 4)) == 0
    assert cache.match(hashes_of([2] * 4)) == 4


def test_a_block_stays_until_its_last_lease_is_released() -> None:
    cache = PrefixCache(2)
    put(cache, hashes_of([1, 1]))
    first, second = cache.acquire(hashes_of([1, 1])), cache.acquire(hashes_of([1, 1]))
    first.release()
    put(cache, hashes_of([2, 2]))
    assert cache.match(hashes_of([1, 1])) == 2
    second.release()
    put(cache, hashes_of([2, 2]))
    assert cache.match(hashes_of([1, 1])) == 0


def test_a_shared_lease_pins_by_itself() -> None:
    cache = PrefixCache(4, "lru")
    put(cache, hashes_of([1, 2]))
    first = cache.acquire(hashes_of([1, 2]))
    second = first.share()
    assert second.block_ids.tolist() == first.block_ids.tolist()
    assert cache.stats().num_leases == 2
    first.release()
    assert first.share().num_blocks == 0
    put(cache, hashes_of([5, 6, 7, 8]))
    assert cache.match(hashes_of([1, 2])) == 2
    second.release()
    assert cache.stats().num_leases == 0
    put(cache, hashes_of([5, 6, 7, 8]))
    assert cache.match(hashes_of([1, 2])) == 0


def test_a_lease_may_be_released_twice() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2]))
    other = cache.acquire(hashes_of([1, 2]))
    lease = cache.acquire(hashes_of([1, 2]))
    lease.release()
    lease.release()
    assert cache.stats().num_leases == 1
    other.release()
    assert cache.stats().num_leases == 0


def test_a_lease_is_released_at_the_end_of_a_with_block() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2]))
    with cache.acquire(hashes_of([1, 2])) as lease:
        assert lease.num_blocks == 2
        assert cache.stats().num_leases == 1
    assert cache.stats().num_leases == 0
    with pytest.raises(KeyError), cache.acquire(hashes_of([1, 2])):
        raise KeyError
    assert cache.stats().num_leases == 0


def test_a_lease_that_is_dropped_gives_back_what_it_pinned() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2]))
    lease = cache.acquire(hashes_of([1, 2]))
    assert cache.stats().num_leases == 1
    del lease
    assert cache.stats().num_leases == 0


# --- Requests ------------------------------------------------------------------------------------


def test_a_request_tells_what_its_engine_knows() -> None:
    request = RequestInfo("acme", "chat-7", "chat", arrival_us=5, priority=-1, next_use_us=9)
    assert (request.tenant, request.session, request.kind) == ("acme", "chat-7", "chat")
    assert (request.arrival_us, request.priority, request.next_use_us) == (5, -1, 9)
    plain = RequestInfo()
    assert (plain.tenant, plain.session, plain.kind) == ("", "", "")
    assert (plain.arrival_us, plain.priority, plain.next_use_us) == (None, 0, None)


def test_a_request_may_be_left_out() -> None:
    cache = PrefixCache(4)
    cache.reserve(hashes_of([1]), None).commit()
    assert cache.acquire(hashes_of([1]), request=None).num_blocks == 1
    assert cache.acquire(hashes_of([1]), RequestInfo()).num_blocks == 1


def test_finished_requests_are_counted() -> None:
    cache = PrefixCache(4)
    cache.finish(RequestInfo())
    cache.finish(RequestInfo(tenant="acme"), output_tokens=100)
    assert cache.stats().finished_requests == 2


# --- No hashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_chain_of_no_blocks(policy: str) -> None:
    cache = PrefixCache(4, policy)
    put(cache, hashes_of([1, 2]))
    before = numbers(cache.stats())
    assert cache.match(NO_HASHES) == 0
    lease = cache.acquire(NO_HASHES)
    assert lease.num_blocks == lease.block_ids.size == 0
    reservation = cache.reserve(NO_HASHES)
    assert reservation.states.size == reservation.block_ids.size == 0
    assert reservation.evicted.hashes.shape == (0, 16)
    reservation.commit()
    reservation.commit(0)
    reservation.abort()
    assert numbers(cache.stats()) == before
    cache.check_invariants()

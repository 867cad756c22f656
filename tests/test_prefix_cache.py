"""``PrefixCache`` by example: what each call promises, read from top to bottom."""

from __future__ import annotations

import ctypes
import gc
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes, hashes_of, rows

from kvcore import (
    POLICIES,
    BlockState,
    CacheStats,
    Lease,
    PrefixCache,
    RequestInfo,
    Reservation,
)

NEW, PRESENT, IN_FLIGHT, BYPASSED = BlockState
NO_HASHES = np.empty((0, 16), np.uint8)


def put(cache: PrefixCache, hashes: Hashes) -> list[int]:
    """Commits a chain; answers the ids of its new blocks."""
    with cache.reserve(hashes) as reservation:
        reservation.commit()
        return list(map(int, reservation.block_ids))


def numbers(stats: CacheStats) -> dict[str, int]:
    return {
        name: getattr(stats, name)
        for name in (
            "num_blocks",
            "used_blocks",
            "free_blocks",
            "in_flight_blocks",
            "num_leases",
            "num_spans",
            "evictions",
            "finished_requests",
        )
    }


# --- A new cache --------------------------------------------------------------------------------


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


# --- match --------------------------------------------------------------------------------------


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


# --- acquire ------------------------------------------------------------------------------------


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


# --- reserve ------------------------------------------------------------------------------------


def test_reserve_asks_for_what_is_not_there() -> None:
    cache = PrefixCache(100)
    put(cache, hashes_of([1, 2]))
    reservation = cache.reserve(hashes_of([1, 2, 3, 4, 5]))
    assert reservation.states.dtype == np.uint8
    assert reservation.states.tolist() == [PRESENT, PRESENT, NEW, NEW, NEW]
    assert reservation.new_positions.dtype == np.uint32
    assert reservation.new_positions.tolist() == [2, 3, 4]
    assert reservation.block_ids.dtype == np.uint32
    assert len(set(reservation.block_ids.tolist())) == 3
    assert len(reservation.evicted) == 0
    assert cache.stats().in_flight_blocks == 3


def test_the_states_are_an_int_enum() -> None:
    assert [state.name for state in BlockState] == ["NEW", "PRESENT", "IN_FLIGHT", "BYPASSED"]
    assert [int(state) for state in BlockState] == [0, 1, 2, 3]


def test_new_blocks_are_found_once_they_are_committed() -> None:
    cache = PrefixCache(100)
    reservation = cache.reserve(hashes_of([1, 2, 3]))
    assert cache.match(hashes_of([1, 2, 3])) == 0
    reservation.commit()
    assert cache.match(hashes_of([1, 2, 3])) == 3
    assert cache.acquire(hashes_of([1, 2, 3])).block_ids.tolist() == reservation.block_ids.tolist()


def test_what_another_writes_is_in_flight_and_never_written_twice() -> None:
    cache = PrefixCache(100)
    first = cache.reserve(hashes_of([1, 2, 3]))
    second = cache.reserve(hashes_of([1, 2, 3, 4]))
    assert second.states.tolist() == [IN_FLIGHT, IN_FLIGHT, IN_FLIGHT, NEW]
    assert not set(first.block_ids.tolist()) & set(second.block_ids.tolist())
    third = cache.reserve(hashes_of([1, 2, 3, 4]))
    assert third.states.tolist() == [IN_FLIGHT] * 4
    assert third.block_ids.tolist() == []
    assert cache.stats().in_flight_blocks == 4


def test_the_first_that_fit_are_kept() -> None:
    cache = PrefixCache(3)
    reservation = cache.reserve(hashes_of([1] * 5))
    assert reservation.states.tolist() == [NEW, NEW, NEW, BYPASSED, BYPASSED]
    assert sorted(reservation.block_ids.tolist()) == [0, 1, 2]
    reservation.commit()
    assert cache.match(hashes_of([1] * 5)) == 3


def test_what_the_chain_itself_needs_is_not_evicted_for_it() -> None:
    cache = PrefixCache(3, "lru")
    put(cache, hashes_of([1, 2]))
    reservation = cache.reserve(hashes_of([1, 2, 3, 4, 5]))
    assert reservation.states.tolist() == [PRESENT, PRESENT, NEW, BYPASSED, BYPASSED]
    assert cache.stats().evictions == 0


def test_when_nothing_may_leave_all_is_bypassed() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 1]))
    lease = cache.acquire(hashes_of([1, 1]))
    writer = cache.reserve(hashes_of([2, 2]))
    reservation = cache.reserve(hashes_of([3, 3]))
    assert reservation.states.tolist() == [BYPASSED, BYPASSED]
    assert reservation.block_ids.tolist() == []
    reservation.commit()  # nothing, and that is no error
    assert lease.num_blocks == 2
    assert writer.block_ids.size == 2


def test_what_made_room_is_reported() -> None:
    cache = PrefixCache(5)
    old = hashes_of([1, 2, 3])
    ids = put(cache, old)
    put(cache, hashes_of([7, 7]))
    reservation = cache.reserve(hashes_of([9, 9]))
    evicted = dict(
        zip(rows(reservation.evicted.hashes), reservation.evicted.block_ids.tolist(), strict=True)
    )
    assert evicted == {rows(old)[1]: ids[1], rows(old)[2]: ids[2]}
    assert reservation.evicted.hashes.shape == (2, 16)
    assert reservation.evicted.hashes.dtype == np.uint8
    assert len(reservation.evicted) == 2
    assert sorted(reservation.block_ids.tolist()) == sorted(ids[1:])
    assert cache.stats().evictions == 2


def test_evicted_blocks_come_after_their_descendants() -> None:
    cache = PrefixCache(6, "lru")
    put(cache, hashes_of([1, 2, 3]))
    put(cache, hashes_of([1, 2, 4, 5]))  # parts behind the second block
    reservation = cache.reserve(hashes_of([9] * 6))
    evicted = rows(reservation.evicted.hashes)
    for chain in (hashes_of([1, 2, 3]), hashes_of([1, 2, 4, 5])):
        places = [evicted.index(block) for block in rows(chain)]
        assert places == sorted(places, reverse=True)


def test_a_block_never_leaves_before_its_descendants() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2, 3]))
    lease = cache.acquire(hashes_of([1, 2, 3]))
    put(cache, hashes_of([8]))
    put(cache, hashes_of([9]))  # 8 leaves, though 1 and 2 are older
    assert cache.match(hashes_of([1, 2, 3])) == lease.num_blocks == 3
    assert cache.match(hashes_of([8])) == 0


# --- commit and abort ---------------------------------------------------------------------------


def test_a_reservation_may_be_committed_in_parts() -> None:
    cache = PrefixCache(100)
    chain = hashes_of([1] * 6)
    reservation = cache.reserve(chain)
    assert reservation.num_committed == 0
    for count in (0, 2, 2, 5):
        reservation.commit(count)
        assert reservation.num_committed == cache.match(chain) == count
        assert cache.stats().in_flight_blocks == 6 - count
    reservation.commit()
    assert reservation.num_committed == cache.match(chain) == 6


def test_committing_fewer_than_before_is_an_error() -> None:
    cache = PrefixCache(100)
    reservation = cache.reserve(hashes_of([1] * 6))
    reservation.commit(4)
    with pytest.raises(ValueError, match=r"n must be at least 4, .* got 3"):
        reservation.commit(3)
    assert reservation.num_committed == cache.match(hashes_of([1] * 6)) == 4


def test_committing_after_an_abort_is_an_error() -> None:
    cache = PrefixCache(100)
    reservation = cache.reserve(hashes_of([1] * 6))
    reservation.commit(2)
    reservation.abort()
    for n in (None, 2, 6):
        with pytest.raises(RuntimeError, match="this reservation was aborted"):
            reservation.commit(n)
    assert reservation.num_committed == cache.match(hashes_of([1] * 6)) == 2


def test_abort_gives_back_what_is_not_committed() -> None:
    cache = PrefixCache(100)
    reservation = cache.reserve(hashes_of([1] * 6))
    reservation.commit(2)
    reservation.abort()
    reservation.abort()
    assert cache.match(hashes_of([1] * 6)) == 2
    assert cache.stats().in_flight_blocks == 0
    assert cache.stats().used_blocks == 2
    assert cache.reserve(hashes_of([1] * 6)).states.tolist() == [PRESENT] * 2 + [NEW] * 4


def test_a_with_block_aborts_what_was_not_committed() -> None:
    cache = PrefixCache(100)
    with cache.reserve(hashes_of([1] * 6)) as reservation:
        reservation.commit(4)
    assert cache.match(hashes_of([1] * 6)) == cache.stats().used_blocks == 4
    with pytest.raises(KeyError), cache.reserve(hashes_of([2] * 6)):
        raise KeyError
    assert cache.stats().used_blocks == 4


def test_a_reservation_that_is_dropped_gives_everything_back() -> None:
    cache = PrefixCache(100)
    reservation = cache.reserve(hashes_of([1] * 6))
    assert cache.stats().in_flight_blocks == 6
    del reservation
    assert cache.stats().in_flight_blocks == 0
    assert cache.stats().used_blocks == 0
    cache.reserve(hashes_of([1] * 6))  # nobody holds it
    assert cache.stats().used_blocks == 0


def test_blocks_in_flight_are_not_evicted() -> None:
    cache = PrefixCache(4)
    writer = cache.reserve(hashes_of([1] * 3))
    writer.commit(1)
    reservation = cache.reserve(hashes_of([2] * 3))
    assert reservation.states.tolist() == [NEW, BYPASSED, BYPASSED]
    writer.commit()
    assert cache.match(hashes_of([1] * 3)) == 3


# --- Building below what another writes ---------------------------------------------------------


def test_what_is_committed_below_is_seen_once_the_blocks_above_are() -> None:
    cache = PrefixCache(100)
    above = cache.reserve(hashes_of([1, 2, 3]))
    below = cache.reserve(hashes_of([1, 2, 3, 4, 5]))
    below.commit()
    assert cache.match(hashes_of([1, 2, 3, 4, 5])) == 0
    above.commit(2)
    assert cache.match(hashes_of([1, 2, 3, 4, 5])) == 2
    above.commit()
    assert cache.match(hashes_of([1, 2, 3, 4, 5])) == 5


def test_a_third_writes_what_the_first_gave_up() -> None:
    cache = PrefixCache(100)
    chain = hashes_of([1, 2, 3, 4, 5])
    first = cache.reserve(hashes_of([1, 2, 3]))
    second = cache.reserve(chain)
    second.commit()
    first.commit(1)
    first.abort()
    assert cache.match(chain) == 1
    assert cache.stats().used_blocks == 3
    third = cache.reserve(chain)
    assert third.states.tolist() == [PRESENT, NEW, NEW, PRESENT, PRESENT]
    assert third.new_positions.tolist() == [1, 2]
    assert not set(third.block_ids.tolist()) & set(second.block_ids.tolist())
    third.commit(1)
    assert cache.match(chain) == 2
    third.commit()
    assert cache.match(chain) == 5
    assert cache.acquire(chain).block_ids.tolist()[3:] == second.block_ids.tolist()
    cache.check_invariants()


def test_a_third_may_give_up_as_well() -> None:
    cache = PrefixCache(100)
    chain = hashes_of([1, 2, 3, 4, 5])
    first, second = cache.reserve(hashes_of([1, 2, 3])), cache.reserve(chain)
    first.abort()
    third = cache.reserve(chain)
    assert third.states.tolist() == [NEW, NEW, NEW, IN_FLIGHT, IN_FLIGHT]
    third.abort()
    assert cache.stats().in_flight_blocks == 2
    second.commit()
    fourth = cache.reserve(chain)
    assert fourth.states.tolist() == [NEW, NEW, NEW, PRESENT, PRESENT]
    fourth.commit()
    assert cache.match(chain) == 5


def test_what_nobody_writes_and_nobody_needs_is_gone() -> None:
    cache = PrefixCache(100)
    first = cache.reserve(hashes_of([1, 2, 3]))
    second = cache.reserve(hashes_of([1, 2, 3, 4, 5]))
    first.abort()
    second.abort()
    assert cache.stats().used_blocks == 0
    assert cache.stats().num_spans == 0
    cache.check_invariants()


def test_what_was_committed_below_a_gap_may_be_evicted() -> None:
    cache = PrefixCache(5)
    first, second = cache.reserve(hashes_of([1, 2, 3])), cache.reserve(hashes_of([1, 2, 3, 4]))
    second.commit()
    first.abort()
    put(cache, hashes_of([9] * 5))
    assert cache.match(hashes_of([9] * 5)) == 5
    assert cache.reserve(hashes_of([1, 2, 3, 4])).states.tolist() == [NEW] * 4


def test_when_a_gap_does_not_fit_its_first_blocks_are_kept() -> None:
    cache = PrefixCache(6)
    first = cache.reserve(hashes_of([1] * 4))
    below = cache.reserve(hashes_of([1] * 4 + [2]))
    first.abort()  # leaves a gap of four blocks above the one below
    put(cache, hashes_of([9] * 3))
    lease = cache.acquire(hashes_of([9] * 3))
    third = cache.reserve(hashes_of([1] * 4 + [2]))  # two blocks are free
    assert third.states.tolist() == [NEW, NEW, BYPASSED, BYPASSED, BYPASSED]
    third.commit()
    assert cache.match(hashes_of([1] * 4 + [2])) == 2
    assert below.block_ids.size == 1
    assert lease.num_blocks == 3
    cache.check_invariants()


@pytest.mark.parametrize("policy", POLICIES)
def test_when_records_run_out_blocks_are_bypassed_and_nothing_else_happens(policy: str) -> None:
    """Blocks that nobody writes cost no room but a record a span, and these are bounded."""
    rng = random.Random(0)
    cache = PrefixCache(64, policy)
    writers, prompts = [], []
    for turn in range(60):  # a gap of up to 62 blocks above each single block in flight
        tokens = [turn] * (64 - turn)
        above = cache.reserve(hashes_of(tokens[:-1]))
        writers.append(cache.reserve(hashes_of(tokens)))
        above.abort()
        prompts.append(tokens)
    for tokens in prompts:
        for length in range(1, len(tokens) - 1):
            cache.reserve(hashes_of(tokens[:length])).abort()  # parts the gap there
    assert cache.stats().num_spans == 64 * 2 + 1024
    cache.check_invariants()
    held: list[Lease | Reservation] = []
    for _ in range(200):
        tokens = rng.choice(prompts)
        hashes = hashes_of(tokens[: rng.randint(0, len(tokens))] + [100] * rng.choice([0, 1, 5]))
        if rng.random() < 0.3:
            held.append(cache.acquire(hashes))
        else:
            reservation = cache.reserve(hashes)
            reservation.commit(rng.randint(0, len(reservation.block_ids)))
            held.append(reservation)
        if len(held) > 6:
            del held[rng.randrange(len(held))]
        if rng.random() < 0.1 and writers:
            writers.pop().commit()
        cache.check_invariants()
    del reservation, above
    held.clear()
    writers.clear()
    assert cache.stats().in_flight_blocks == 0
    assert cache.stats().num_leases == 0
    for _ in range(20):  # what a policy bypasses first, it takes when it is asked for again
        put(cache, hashes_of([200] * 64))
    assert cache.match(hashes_of([200] * 64)) == 64
    cache.check_invariants()


# --- Requests -----------------------------------------------------------------------------------


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


# --- No hashes ----------------------------------------------------------------------------------


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


# --- Views and lifetimes ------------------------------------------------------------------------


def test_arrays_are_read_only() -> None:
    cache = PrefixCache(2)
    put(cache, hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2]))
    reservation.commit()
    lease = cache.acquire(hashes_of([2, 2]))
    for array in (
        lease.block_ids,
        reservation.states,
        reservation.new_positions,
        reservation.block_ids,
        reservation.evicted.hashes,
        reservation.evicted.block_ids,
    ):
        assert array.size > 0
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_arrays_stay_valid_when_everything_else_is_dropped() -> None:
    cache = PrefixCache(3)
    put(cache, hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2, 2]))
    reservation.commit()
    evicted = reservation.evicted
    arrays = [
        cache.acquire(hashes_of([2, 2, 2])).block_ids,
        reservation.states,
        reservation.new_positions,
        reservation.block_ids,
        evicted.hashes,
        evicted.block_ids,
    ]
    copies = [array.copy() for array in arrays]
    del cache, reservation, evicted
    gc.collect()
    PrefixCache(3).reserve(hashes_of([3] * 3)).commit()  # writes over memory that is free
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_array_holds_what_it_shows() -> None:
    """Ids that somebody looks at are not given to others."""
    cache = PrefixCache(3)
    ids = cache.reserve(hashes_of([1, 1])).block_ids
    assert cache.stats().in_flight_blocks == 2
    del ids
    assert cache.stats().in_flight_blocks == 0
    put(cache, hashes_of([1, 1]))
    ids = cache.acquire(hashes_of([1, 1])).block_ids
    assert cache.stats().num_leases == 1
    del ids
    assert cache.stats().num_leases == 0


def test_leases_and_reservations_keep_the_cache_alive() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 1]))
    lease = cache.acquire(hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2]))
    del cache
    gc.collect()
    reservation.commit(1)
    reservation.abort()
    lease.release()


def test_the_hashes_may_change_after_the_call() -> None:
    cache = PrefixCache(4)
    chain = hashes_of([1, 1]).copy()
    reservation = cache.reserve(chain)
    chain[:] = 0
    reservation.commit()
    assert cache.match(hashes_of([1, 1])) == 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda chain: memoryview(chain),
        lambda chain: memoryview(chain.tobytes()).cast("B", chain.shape),
        lambda chain: (ctypes.c_uint8 * 16 * len(chain)).from_buffer_copy(chain.tobytes()),
        lambda chain: np.concatenate([chain, chain])[: len(chain)],
    ],
    ids=["memoryview", "cast", "ctypes", "slice"],
)
def test_any_contiguous_buffer_of_hashes_will_do(wrap: Callable[[Hashes], Any]) -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2]))
    assert cache.match(wrap(hashes_of([1, 2, 3]))) == 2


@pytest.mark.parametrize("kind", [Lease, Reservation, CacheStats])
def test_what_the_cache_makes_cannot_be_made_by_hand(kind: type) -> None:
    with pytest.raises(TypeError, match="No constructor"):
        kind()


# --- Bad input ----------------------------------------------------------------------------------


@pytest.fixture
def busy() -> Any:
    """A cache with something of everything; whatever the test does must not change it."""
    cache = PrefixCache(12)
    put(cache, hashes_of([1] * 4))
    first, second = cache.reserve(hashes_of([2] * 2)), cache.reserve(hashes_of([2] * 3))
    first.abort()
    held = [cache.acquire(hashes_of([1, 1, 9])), cache.reserve(hashes_of([1, 1, 3])), second]
    before = numbers(cache.stats())
    yield cache
    assert numbers(cache.stats()) == before
    assert cache.match(hashes_of([1] * 5)) == 4
    cache.check_invariants()
    held.clear()
    cache.check_invariants()


EIGHT = hashes_of(range(8))
BAD_HASHES = {
    "None": (None, TypeError, "NoneType None"),
    "int": (5, TypeError, "int 5"),
    "str": ("a" * 16, TypeError, "str 'aaaaaaaaaaaaaaaa'"),
    "empty list": ([], TypeError, r"list \[\]"),
    "list of rows": ([[0] * 16], TypeError, "list"),
    "list of bytes": ([bytes(16)], TypeError, "list"),
    "object": (object(), TypeError, "object"),
    "bytes": (bytes(16), ValueError, "bytes"),
    "bytearray": (bytearray(16), ValueError, "bytearray"),
    "int8": (EIGHT.view(np.int8), ValueError, r"dtype int8 and shape \(8, 16\)"),
    "bool": (np.zeros((2, 16), bool), ValueError, "dtype bool"),
    "uint16": (np.zeros((2, 16), np.uint16), ValueError, "dtype uint16"),
    "uint64": (EIGHT.view(np.uint64), ValueError, r"dtype uint64 and shape \(8, 2\)"),
    "float64": (np.zeros((2, 16)), ValueError, "dtype float64"),
    "S16": (EIGHT.view("S16"), ValueError, r"dtype \|S16"),
    "V16": (EIGHT.view("V16"), ValueError, r"dtype \|V16"),
    "objects": (np.zeros((2, 16), object), ValueError, "dtype object"),
    "one row": (EIGHT[0], ValueError, r"shape \(16,\)"),
    "flat": (EIGHT.reshape(-1), ValueError, r"shape \(128,\)"),
    "no rows, flat": (EIGHT.reshape(-1)[:0], ValueError, r"shape \(0,\)"),
    "three dimensions": (EIGHT[None], ValueError, r"shape \(1, 8, 16\)"),
    "15 columns": (np.zeros((2, 15), np.uint8), ValueError, r"shape \(2, 15\)"),
    "32 columns": (EIGHT.reshape(4, 32), ValueError, r"shape \(4, 32\)"),
    "no columns": (np.zeros((2, 0), np.uint8), ValueError, r"shape \(2, 0\)"),
    "scalar": (np.uint8(3), ValueError, "dtype uint8"),
    "every other row": (EIGHT[::2], TypeError, r"shape \(4, 16\)"),
    "backwards": (EIGHT[::-1], TypeError, r"shape \(8, 16\)"),
    "columns of wider rows": (EIGHT.reshape(4, 32)[:, :16], TypeError, r"shape \(4, 16\)"),
    "Fortran order": (np.asfortranarray(EIGHT), TypeError, r"shape \(8, 16\)"),
}


@pytest.mark.parametrize("call", ["match", "acquire", "reserve"])
@pytest.mark.parametrize(("value", "error", "got"), BAD_HASHES.values(), ids=BAD_HASHES)
def test_bad_hashes(
    busy: PrefixCache, call: str, value: object, error: type[Exception], got: str
) -> None:
    allowed = r"^hashes must be a C-contiguous uint8\[n, 16\] array, got .*"
    with pytest.raises(error, match=allowed + got):
        getattr(busy, call)(value)


@pytest.mark.parametrize("value", [5, 1.5, "x", b"x", False, (), {}, object(), RequestInfo])
def test_bad_requests(busy: PrefixCache, value: Any) -> None:
    kind = type(value).__name__
    chain = hashes_of([1, 1, 8])
    with pytest.raises(TypeError, match=f"^request must be a RequestInfo or None, got .*{kind}"):
        busy.acquire(chain, value)
    with pytest.raises(TypeError, match=f"^request must be a RequestInfo or None, got .*{kind}"):
        busy.reserve(chain, value)
    with pytest.raises(TypeError, match=f"^request must be a RequestInfo, got .*{kind}"):
        busy.finish(value)


def test_finish_needs_a_request(busy: PrefixCache) -> None:
    with pytest.raises(TypeError, match=r"^request must be a RequestInfo, got NoneType"):
        busy.finish(None)


BAD_INTEGERS = {
    "bool": (True, TypeError, "bool True"),
    "numpy bool": (np.bool_(True), TypeError, "bool"),
    "float": (1.0, TypeError, "float 1.0"),
    "numpy float": (np.float64(1), TypeError, "float64"),
    "str": ("1", TypeError, "str '1'"),
    "bytes": (b"1", TypeError, "bytes b'1'"),
    "list": ([1], TypeError, r"list \[1\]"),
    "huge": (2**64, ValueError, "int 18446744073709551616"),
    "huge negative": (-(2**64), ValueError, "int -18446744073709551616"),
    "beyond any machine's": (10**100, ValueError, "int"),
}
NEGATIVE = {"negative": (-1, ValueError, "int -1")}
NONE = {"None": (None, TypeError, "NoneType None")}
ZERO = {"zero": (0, ValueError, "int 0")}


def cases(bad: dict[str, tuple[Any, type[Exception], str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("value", "error", "got"), bad.values(), ids=bad)


@cases(BAD_INTEGERS | NEGATIVE | NONE | ZERO | {"above": (2**30 + 1, ValueError, "1073741825")})
def test_bad_num_blocks(value: Any, error: type[Exception], got: str) -> None:
    allowed = "^num_blocks must be an int from 1 to 1073741824, got .*"
    with pytest.raises(error, match=allowed + got):
        PrefixCache(value)


def test_integers_of_any_type_are_integers() -> None:
    cache = PrefixCache(np.uint16(5))
    assert cache.num_blocks == 5
    reservation = cache.reserve(hashes_of([1, 2, 3]))
    reservation.commit(np.int64(2))
    assert reservation.num_committed == 2
    cache.finish(RequestInfo(priority=np.int8(-3)), np.uint64(7))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "LRU",
        " lru",
        "lru, arc",
        "random",
        "é",
        "x" * 200,
        "auto:",
        "auto:lru+",
        "auto:lru+auto",
        "auto:lru+lru",
        "auto:lru,arc",
    ],
)
def test_unknown_policies(value: str) -> None:
    known = ", ".join(POLICIES)
    with pytest.raises(
        ValueError, match=f'^policy must be one of {known}, or auto: .*, got "{re.escape(value)}"$'
    ):
        PrefixCache(5, value)


def test_auto_among_some_policies() -> None:
    assert PrefixCache(5, "auto:lru+s3fifo").policy == "auto:lru+s3fifo"


@pytest.mark.parametrize("value", [None, 5, b"lru", ["lru"], True])
def test_policies_that_are_no_names(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^policy must be a str, got {type(value).__name__}"):
        PrefixCache(5, value)


@cases(BAD_INTEGERS | NEGATIVE | {"more than there are": (4, ValueError, "int 4")})
def test_bad_commits(value: Any, error: type[Exception], got: str) -> None:
    cache = PrefixCache(8)
    reservation = cache.reserve(hashes_of([1, 2, 3]))
    reservation.commit(1)
    with pytest.raises(error, match=f"^n must be an int from 0 to 3, got .*{got}"):
        reservation.commit(value)
    assert reservation.num_committed == cache.match(hashes_of([1, 2, 3])) == 1
    assert cache.stats().in_flight_blocks == 2
    cache.check_invariants()


@cases(BAD_INTEGERS | NEGATIVE | NONE)
def test_bad_output_tokens(busy: PrefixCache, value: Any, error: type[Exception], got: str) -> None:
    allowed = "^output_tokens must be an int from 0 to 9223372036854775807, got .*"
    with pytest.raises(error, match=allowed + got):
        busy.finish(RequestInfo(), value)


@pytest.mark.parametrize("field", ["arrival_us", "next_use_us"])
@cases(BAD_INTEGERS | NEGATIVE)
def test_bad_times(field: str, value: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error, match=f"^{field} must be an int from 0 to .*, got .*{got}"):
        RequestInfo(**{field: value})


@cases(BAD_INTEGERS | NONE | {"above": (2**31, ValueError, "2147483648")})
def test_bad_priorities(value: Any, error: type[Exception], got: str) -> None:
    allowed = "^priority must be an int from -2147483648 to 2147483647, got .*"
    with pytest.raises(error, match=allowed + got):
        RequestInfo(priority=value)


@pytest.mark.parametrize("field", ["tenant", "session", "kind"])
@pytest.mark.parametrize("value", [None, 5, b"acme", ["acme"]])
def test_names_that_are_no_strings(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{field} must be a str, got {type(value).__name__}"):
        RequestInfo(**{field: value})


@pytest.mark.parametrize("field", ["tenant", "session", "kind"])
def test_names_of_any_text(field: str) -> None:
    for text in ("é", "租户", "🙂", "a\0b", "x" * 10_000):
        assert getattr(RequestInfo(**{field: text}), field) == text
    with pytest.raises(ValueError, match=field):
        RequestInfo(**{field: "\ud800"})  # half a character


@pytest.mark.parametrize("name", ["num_blocks", "policy"])
def test_a_cache_cannot_be_changed_by_hand(busy: PrefixCache, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(busy, name, getattr(busy, name))


@pytest.mark.parametrize("name", ["tenant", "session", "kind", "arrival_us", "priority"])
def test_a_request_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(RequestInfo(), name, None)


@pytest.mark.parametrize("policy", POLICIES)
def test_hashes_that_are_no_chains_leak_nothing(policy: str) -> None:
    """Equal hashes with different ones before them: the answers mean little, but nothing leaks."""
    rng = random.Random(0)
    for _ in range(100):
        cache = PrefixCache(rng.randint(1, 40), policy)
        some = hashes_of(range(rng.choice([1, 2, 4, 30])))
        held: list[Lease | Reservation] = []
        for _ in range(60):
            hashes = some[[rng.randrange(len(some)) for _ in range(rng.randint(0, 30))]]
            if rng.random() < 0.4:
                held.append(cache.acquire(hashes))
            else:
                reservation = cache.reserve(hashes)
                reservation.commit(rng.randint(0, len(reservation.block_ids)))
                held.append(reservation)
            cache.match(hashes)
            if len(held) > 4:
                del held[rng.randrange(len(held))]
        del reservation
        held.clear()
        stats = cache.stats()
        assert stats.in_flight_blocks == 0
        assert stats.num_leases == 0

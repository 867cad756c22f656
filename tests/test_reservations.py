"""``PrefixCache``: blocks that are reserved, committed, given up, and built upon."""

from __future__ import annotations

import random

import numpy as np
import pytest
from models.chains import hashes_of, rows
from support.prefix_cache import BYPASSED, IN_FLIGHT, NEW, PRESENT, put

from kvcore import (
    POLICIES,
    BlockState,
    Lease,
    PrefixCache,
    Reservation,
)

# --- reserve -------------------------------------------------------------------------------------


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


# --- commit and abort ----------------------------------------------------------------------------


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


# --- Building below what another writes ----------------------------------------------------------


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

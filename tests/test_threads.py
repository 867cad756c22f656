"""Many threads, one cache: nobody reads what another writes, and all is given back at the end."""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
from collections.abc import Callable

import pytest
from models.chains import Hashes, hashes_of, rows

from kvcore import POLICIES, Lease, MissRatioCurve, PrefixCache, RequestInfo, Reservation

DEADLINE_SECONDS = 60.0


class Slab:
    """What the blocks hold: the hash of what was written there last."""

    def __init__(self, num_blocks: int) -> None:
        self.content = [b""] * num_blocks

    def write(self, chain: list[bytes], reservation: Reservation) -> None:
        positions, ids = reservation.new_positions.tolist(), reservation.block_ids.tolist()
        for position, block_id in zip(positions, ids, strict=True):
            self.content[block_id] = chain[position]

    def written(self, chain: list[bytes], reservation: Reservation) -> list[tuple[bytes, bytes]]:
        """What is there and what should be, of all that is not committed yet."""
        begin = reservation.num_committed
        positions = reservation.new_positions.tolist()[begin:]
        ids = reservation.block_ids.tolist()[begin:]
        return [(self.content[i], chain[p]) for p, i in zip(positions, ids, strict=True)]

    def check_lease(self, chain: list[bytes], lease: Lease) -> None:
        held = [self.content[block_id] for block_id in lease.block_ids.tolist()]
        assert held == chain[: lease.num_blocks]


def run(*workers: Callable[[], None]) -> None:
    """Runs each in a thread of its own; fails with the first error, or when one does not end."""
    errors: list[BaseException] = []

    def guarded(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(w,), daemon=True) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    if any(thread.is_alive() for thread in threads):
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"a thread did not end in {DEADLINE_SECONDS} s")
    if errors:
        raise errors[0]


def check_all_is_given_back(cache: PrefixCache) -> None:
    cache.check_invariants()
    stats = cache.stats()
    assert stats.in_flight_blocks == 0
    assert stats.num_leases == 0
    assert stats.used_blocks + stats.free_blocks == cache.num_blocks
    hashes = hashes_of([10**6] * cache.num_blocks)
    for _ in range(20):  # what is asked for again and again is worth more than all the rest
        with cache.reserve(hashes) as reservation:
            reservation.commit()
    assert cache.match(hashes) == cache.num_blocks  # everything can be evicted
    with cache.acquire(hashes) as lease:
        assert sorted(lease.block_ids.tolist()) == list(range(cache.num_blocks))


def some_chains(rng: random.Random, count: int, longest: int) -> list[tuple[list[bytes], Hashes]]:
    chains = []
    for _ in range(count):
        parts_at, length = rng.randint(0, longest), rng.randint(1, longest)
        tokens = [0] * min(parts_at, length) + [rng.randint(1, 3)] * (length - parts_at)
        hashes = hashes_of(tokens)
        chains.append((rows(hashes), hashes))
    return chains


def live(
    cache: PrefixCache, slab: Slab, chains: list[tuple[list[bytes], Hashes]], seed: int, calls: int
) -> None:
    """One engine's life: every call, in any order, with what it holds checked as it goes."""
    rng = random.Random(seed)
    leases: list[tuple[list[bytes], Lease]] = []
    reservations: list[tuple[list[bytes], Reservation]] = []
    for _ in range(calls):
        chain, hashes = rng.choice(chains)
        request = RequestInfo(tenant=str(seed))
        action = rng.random()
        if action < 0.1:
            assert 0 <= cache.match(hashes) <= len(chain)
        elif action < 0.35:
            lease = cache.acquire(hashes, request)
            slab.check_lease(chain, lease)
            leases.append((chain, lease))
        elif action < 0.65:
            reservation = cache.reserve(hashes, request)
            slab.write(chain, reservation)
            reservations.append((chain, reservation))
        elif action < 0.8 and reservations:
            chain, reservation = rng.choice(reservations)
            count = rng.randint(reservation.num_committed, reservation.block_ids.size)
            assert all(there == meant for there, meant in slab.written(chain, reservation))
            reservation.commit(count)
        elif action < 0.9 and reservations:
            chain, reservation = reservations.pop(rng.randrange(len(reservations)))
            assert all(there == meant for there, meant in slab.written(chain, reservation))
            if rng.random() < 0.5:
                reservation.abort()
        elif leases:
            chain, lease = leases.pop(rng.randrange(len(leases)))
            slab.check_lease(chain, lease)
            if rng.random() < 0.5:
                lease.release()
        if len(reservations) > 3:
            reservations.pop(0)[1].commit()
        if len(leases) > 3:
            leases.pop(0)
        cache.finish(request)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("num_blocks", "longest"), [(20, 30), (200, 60), (2000, 300)])
def test_threads_hammer_one_cache(policy: str, num_blocks: int, longest: int) -> None:
    cache, slab = PrefixCache(num_blocks, policy), Slab(num_blocks)
    chains = some_chains(random.Random(num_blocks), 40, longest)
    calls = 2000

    def watch() -> None:
        for _ in range(200):
            cache.check_invariants()
            stats = cache.stats()
            assert stats.used_blocks + stats.free_blocks == num_blocks
            assert 0 <= stats.in_flight_blocks <= stats.used_blocks

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet
    try:
        run(watch, *(lambda seed=seed: live(cache, slab, chains, seed, calls) for seed in range(4)))
    finally:
        sys.setswitchinterval(before)
    assert cache.stats().finished_requests == 4 * calls
    check_all_is_given_back(cache)


@pytest.mark.parametrize("policy", POLICIES)
def test_long_chains_run_beside_each_other(policy: str) -> None:
    """Calls of many blocks let other threads run inside the core."""
    num_blocks = 50_000
    cache, slab = PrefixCache(num_blocks, policy), Slab(num_blocks)
    whole = hashes_of(range(20_000))
    chains = [(rows(whole[:length]), whole[:length]) for length in (17_000, 18_500, 20_000)]
    other = hashes_of(range(1, 20_000))
    chains.append((rows(other), other))
    run(*(lambda seed=seed: live(cache, slab, chains, seed, 200) for seed in range(3)))
    check_all_is_given_back(cache)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_of_many_writes(policy: str) -> None:
    """All ask for one chain at once: each block is new for exactly one of them."""
    cache = PrefixCache(50 * 20, policy)
    for turn in range(50):
        hashes = hashes_of([turn] * 20)
        together = threading.Barrier(4)
        reservations: list[Reservation] = []

        def reserve(
            hashes: Hashes = hashes,
            together: threading.Barrier = together,
            reservations: list[Reservation] = reservations,
        ) -> None:
            together.wait(DEADLINE_SECONDS)
            reservations.append(cache.reserve(hashes))

        run(*[reserve] * 4)
        assert sum(reservation.block_ids.size for reservation in reservations) == 20
        for reservation in reservations:
            reservation.commit()
        assert cache.match(hashes) == 20


@pytest.mark.parametrize("policy", POLICIES)
def test_threads_share_one_reservation_and_one_lease(policy: str) -> None:
    """Commit, abort and release may race; each block is published or given back, never both."""
    for turn in range(100):
        cache = PrefixCache(30, policy)
        hashes = hashes_of([turn] * 20)
        reservation = cache.reserve(hashes)
        together = threading.Barrier(4)

        def commit(
            reservation: Reservation = reservation, together: threading.Barrier = together
        ) -> None:
            together.wait(DEADLINE_SECONDS)
            for count in range(21):
                try:
                    reservation.commit(count)
                except ValueError:  # another was faster
                    continue
                except RuntimeError:  # aborted
                    return

        def abort(
            reservation: Reservation = reservation, together: threading.Barrier = together
        ) -> None:
            together.wait(DEADLINE_SECONDS)
            reservation.abort()

        run(commit, commit, abort, abort)
        assert cache.match(hashes) == reservation.num_committed == cache.stats().used_blocks
        with cache.acquire(hashes) as lease:
            run(*[lease.release] * 4)
        assert cache.stats().num_leases == 0
        check_all_is_given_back(cache)


def test_handles_may_die_in_other_threads() -> None:
    cache = PrefixCache(100)
    held: list[Lease | Reservation] = []
    for turn in range(50):
        with cache.reserve(hashes_of([turn % 7] * 10)) as reservation:
            reservation.commit()
        held.append(cache.reserve(hashes_of([turn % 7] * 12)))
        held.append(cache.acquire(hashes_of([turn % 5] * 10)))
    del reservation

    def drop() -> None:
        while True:
            try:
                held.pop()
            except IndexError:
                return

    run(*[drop] * 4)
    check_all_is_given_back(cache)


def test_threads_share_a_curve() -> None:
    """Calls of many blocks give up the GIL; short ones that meet them wait without it."""
    curve = MissRatioCurve(min_sample_blocks=64, policy="hazard", capacities=[32, 500, 2000])
    chains = [hashes_of(range(begin, begin + length)) for begin, length in ((0, 3000), (1, 20))]

    def show(chain: Hashes) -> None:
        for _ in range(50):
            request = RequestInfo()
            curve.update(chain, request)
            curve.finish(request, 10)
            assert 0 <= curve.hit_ratio(1000) <= 1

    run(*(lambda chain=chain: show(chain) for chain in chains for _ in range(2)))
    assert curve.num_blocks == 2 * 50 * 3020

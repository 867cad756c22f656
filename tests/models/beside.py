"""The core and its model, side by side: every call is made on both and the answers are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from kvcore import Lease, PrefixCache, RequestInfo, Reservation, TenantQuota
from models.chains import Hashes, chain_of, packed, rows
from models.follower import Follower
from models.prefix_model import ModelCache, ModelLease, ModelReservation
from models.tenants_model import PARTS


@dataclass
class Chain:
    rows: list[bytes]
    hashes: Hashes


@dataclass(eq=False)
class LeasePair:
    core: Lease
    model: ModelLease


@dataclass(eq=False)
class ReservationPair:
    core: Reservation
    model: ModelReservation
    ids: list[int]
    num_committed: int = 0


@dataclass
class Beside:
    """A ``PrefixCache`` beside its model. Keeps the ids of all blocks that are owned."""

    num_blocks: int
    policy: str
    tenants: dict[str, TenantQuota] | None = None
    leases: list[LeasePair] = field(default_factory=list)
    reservations: list[ReservationPair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = PrefixCache(self.num_blocks, self.policy, self.tenants)
        self.model = ModelCache(self.num_blocks, self.policy, self.tenants)
        self.ids: dict[bytes, int] = {}
        self.owned: set[int] = set()
        self.chains: dict[tuple[int, ...], Chain] = {}
        self.finished = 0

    def chain(self, tokens: Sequence[int]) -> Chain:
        key = tuple(tokens)
        if key not in self.chains:
            chain = chain_of(key)
            self.chains[key] = Chain(chain, packed(chain))
        return self.chains[key]

    def acquire(self, tokens: Sequence[int], request: RequestInfo | None) -> LeasePair:
        chain = self.chain(tokens)
        lease = LeasePair(
            self.core.acquire(chain.hashes, request), self.model.acquire(chain.rows, request)
        )
        expected = [self.ids[block] for block in chain.rows[: lease.model.num_blocks]]
        assert lease.core.num_blocks == lease.model.num_blocks
        assert lease.core.block_ids.tolist() == expected
        self.leases.append(lease)
        return lease

    def reserve(self, tokens: Sequence[int], request: RequestInfo | None) -> ReservationPair:
        chain = self.chain(tokens)
        core = self.core.reserve(chain.hashes, request)
        if isinstance(self.model.policy, Follower):
            self.model.policy.follow(rows(core.evicted.hashes), len(chain.rows))
        model = self.model.reserve(chain.rows, request)
        assert core.states.tolist() == model.states
        assert core.new_positions.tolist() == model.new_positions
        self._lose(core, model)
        pair = ReservationPair(core, model, core.block_ids.tolist())
        self._own([chain.rows[position] for position in model.new_positions], pair.ids)
        self.reservations.append(pair)
        return pair

    def _lose(self, core: Reservation, model: ModelReservation) -> None:
        evicted = rows(core.evicted.hashes)
        assert evicted == model.evicted
        ids = [self.ids.pop(block) for block in evicted]
        assert core.evicted.block_ids.tolist() == ids
        self.owned.difference_update(ids)

    def _own(self, blocks: list[bytes], ids: list[int]) -> None:
        assert len(ids) == len(blocks)
        assert all(0 <= block_id < self.num_blocks for block_id in ids)
        before = len(self.owned)
        self.owned.update(ids)
        assert len(self.owned) == before + len(ids), "an id with two owners"
        self.ids.update(zip(blocks, ids, strict=True))

    def commit(self, pair: ReservationPair, count: int | None) -> None:
        """``None``: all of them, in the words of the API."""
        total = len(pair.ids) if count is None else count
        if not pair.model.is_open:
            with pytest.raises(RuntimeError, match="aborted"):
                pair.core.commit(count)
        elif total < pair.model.num_committed:
            with pytest.raises(ValueError, match=rf"n must be at least .* got {total}"):
                pair.core.commit(count)
        else:
            pair.core.commit(count)
            pair.model.commit(total)
        assert pair.core.num_committed == pair.model.num_committed

    def abort(self, pair: ReservationPair) -> None:
        pair.core.abort()
        self._abort_model(pair)

    def _abort_model(self, pair: ReservationPair) -> None:
        if pair.model.is_open:
            for block in pair.model.new[pair.model.num_committed :]:
                self.owned.remove(self.ids.pop(block.hash))
        pair.model.abort()

    def drop_reservation(self, pair: ReservationPair) -> None:
        """Forgets it without a word."""
        self.reservations.remove(pair)
        del pair.core
        self._abort_model(pair)

    def release(self, lease: LeasePair) -> None:
        lease.core.release()
        lease.model.release()

    def drop_lease(self, lease: LeasePair) -> None:
        self.leases.remove(lease)
        del lease.core
        lease.model.release()

    def serve(self, tokens: Sequence[int], request: RequestInfo | None) -> None:
        """What an engine does for a request, from its start to its end."""
        lease = self.acquire(tokens, request)
        reservation = self.reserve(tokens, request)
        self.commit(reservation, None)
        self.drop_lease(lease)
        self.drop_reservation(reservation)

    def finish(self, request: RequestInfo, output_tokens: int) -> None:
        self.core.finish(request, output_tokens)
        self.model.finish(request, output_tokens)
        self.finished += 1

    def drop_everything(self) -> None:
        for lease in list(self.leases):
            self.drop_lease(lease)
        for reservation in list(self.reservations):
            self.drop_reservation(reservation)

    def check(self) -> None:
        """Everything that can be seen is equal."""
        self.core.check_invariants()
        model, stats = self.model, self.core.stats()
        assert stats.num_blocks == self.num_blocks
        assert stats.used_blocks == model.committed_blocks + model.in_flight_blocks
        assert stats.free_blocks == model.free_blocks
        assert stats.in_flight_blocks == model.in_flight_blocks
        assert stats.num_leases == model.num_leases
        assert stats.evictions == model.evictions
        assert stats.finished_requests == self.finished
        assert stats.used_blocks == len(self.owned)
        if model.tenants is not None:
            charged = [stats.used_blocks * PARTS for stats in self.core.tenant_stats().values()]
            assert charged == [account.used for account in model.tenants.accounts]
            lost = [stats.evicted_blocks for stats in self.core.tenant_stats().values()]
            assert lost == [account.evicted for account in model.tenants.accounts]
        for chain in self.chains.values():
            assert self.core.match(chain.hashes) == self.model.match(chain.rows)

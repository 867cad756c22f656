"""The cache beside a plain model of single blocks: whatever is done, both answer the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kvcore import RequestInfo
from models.beside import Beside

# Chains are runs of equal tokens, so that they part, stop inside each other and go on.
chains = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 2, 3, 5, 8, 13, 20])), max_size=4
).map(lambda runs: [token for token, length in runs for _ in range(length)][:60])
pick = st.integers(0, 7)  # one of those that are open


class CacheBesideModel(RuleBasedStateMachine):
    policy = ""

    @initialize(num_blocks=st.integers(1, 40))
    def make(self, num_blocks: int) -> None:
        self.both = Beside(num_blocks, self.policy)
        self.requests: list[RequestInfo | None] = [None]

    def request(self, which: int) -> RequestInfo | None:
        """None, one that was used before, or a new one."""
        if which >= len(self.requests):
            self.requests.append(RequestInfo(tenant=f"tenant{which}"))
            return self.requests[-1]
        return self.requests[which]

    @rule(tokens=chains, which=pick)
    def acquire(self, tokens: list[int], which: int) -> None:
        self.both.acquire(tokens, self.request(which))

    @rule(tokens=chains, which=pick)
    def reserve(self, tokens: list[int], which: int) -> None:
        self.both.reserve(tokens, self.request(which))

    @rule(tokens=chains, which=pick)
    def serve(self, tokens: list[int], which: int) -> None:
        """What an engine does for a request, from its start to its end."""
        request = self.request(which)
        lease = self.both.acquire(tokens, request)
        reservation = self.both.reserve(tokens, request)
        self.both.commit(reservation, None)
        self.both.drop_lease(lease)
        self.both.drop_reservation(reservation)

    @precondition(lambda self: self.both.reservations)
    @rule(which=pick, part=st.integers(0, 20))
    def commit_a_part(self, which: int, part: int) -> None:
        """Often less than before, or after an abort."""
        reservation = self.both.reservations[which % len(self.both.reservations)]
        self.both.commit(reservation, min(part, len(reservation.ids)))

    @precondition(lambda self: self.both.reservations)
    @rule(which=pick)
    def commit_all(self, which: int) -> None:
        self.both.commit(self.both.reservations[which % len(self.both.reservations)], None)

    @precondition(lambda self: self.both.reservations)
    @rule(which=pick)
    def abort(self, which: int) -> None:
        """Perhaps a second time."""
        self.both.abort(self.both.reservations[which % len(self.both.reservations)])

    @precondition(lambda self: self.both.reservations)
    @rule(which=pick)
    def drop_reservation(self, which: int) -> None:
        self.both.drop_reservation(self.both.reservations[which % len(self.both.reservations)])

    @precondition(lambda self: self.both.leases)
    @rule(which=pick)
    def release(self, which: int) -> None:
        """Perhaps a second time."""
        self.both.release(self.both.leases[which % len(self.both.leases)])

    @precondition(lambda self: self.both.leases)
    @rule(which=pick)
    def drop_lease(self, which: int) -> None:
        self.both.drop_lease(self.both.leases[which % len(self.both.leases)])

    @precondition(lambda self: any(self.requests))
    @rule(which=pick, output_tokens=st.integers(0, 100))
    def finish(self, which: int, output_tokens: int) -> None:
        request = self.request(which)
        if request is not None:
            self.both.finish(request, output_tokens)

    @rule(tokens=chains)
    def match(self, tokens: list[int]) -> None:
        self.both.chain(tokens)  # from now on the invariant matches it

    @invariant()
    def both_are_equal(self) -> None:
        if hasattr(self, "both"):
            self.both.check()

    def teardown(self) -> None:
        if hasattr(self, "both"):
            self.both.drop_everything()
            self.both.check()
            stats = self.both.core.stats()
            assert stats.in_flight_blocks == 0
            assert stats.num_leases == 0


class LruBesideModel(CacheBesideModel):
    policy = "lru"


class ArcBesideModel(CacheBesideModel):
    policy = "arc"


TestLruBesideModel = LruBesideModel.TestCase
TestArcBesideModel = ArcBesideModel.TestCase
TestLruBesideModel.settings = TestArcBesideModel.settings = settings(stateful_step_count=40)

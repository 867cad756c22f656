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
    run_state_machine_as_test,
)
from models.beside import Beside
from models.policies import POLICY_MODELS

from kvcore import RequestInfo

# Chains are runs of equal tokens, alone or behind a part of what was asked for before, so that they
# part, stop inside each other and go on.
runs = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 2, 3, 5, 8, 13, 20])), max_size=3
).map(lambda runs: [token for token, length in runs for _ in range(length)])
chains = st.tuples(st.integers(0, 3), st.integers(0, 30) | st.just(60), runs)
ChainParts = tuple[int, int, list[int]]
pick = st.integers(0, 7)  # one of those that are open


def request_at(number: int) -> RequestInfo:
    """They come from microseconds to minutes apart."""
    return RequestInfo(
        tenant=f"tenant{number}", kind=f"kind{number % 3}", arrival_us=int(number**5.5)
    )


class CacheBesideModel(RuleBasedStateMachine):
    policy = ""

    @initialize(num_blocks=st.integers(1, 40))
    def make(self, num_blocks: int) -> None:
        self.both = Beside(num_blocks, self.policy)
        self.requests: list[RequestInfo | None] = [None]
        self.latest: list[list[int]] = [[]]  # first: no chain

    def tokens(self, chain: ChainParts) -> list[int]:
        which, kept, more = chain
        self.latest.append((self.latest[-(which % len(self.latest))][:kept] + more)[:60])
        return self.latest[-1]

    def request(self, which: int) -> RequestInfo | None:
        """None, one of the last three, or a new one."""
        if which >= min(4, len(self.requests)):
            self.requests.append(request_at(len(self.requests)))
            which = 1
        return self.requests[-which] if which else None

    @rule(chain=chains, which=pick)
    def acquire(self, chain: ChainParts, which: int) -> None:
        self.both.acquire(self.tokens(chain), self.request(which))

    @rule(chain=chains, which=pick)
    def reserve(self, chain: ChainParts, which: int) -> None:
        self.both.reserve(self.tokens(chain), self.request(which))

    @rule(chain=chains, which=pick)
    def serve(self, chain: ChainParts, which: int) -> None:
        self.both.serve(self.tokens(chain), self.request(which))

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

    @rule(which=pick, output_tokens=st.integers(0, 100))
    def finish(self, which: int, output_tokens: int) -> None:
        request = self.request(which)
        if request is not None:
            self.both.finish(request, output_tokens)

    @rule(chain=chains)
    def match(self, chain: ChainParts) -> None:
        self.both.chain(self.tokens(chain))  # from now on the invariant matches it

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


@pytest.mark.parametrize("policy", POLICY_MODELS)
def test_any_calls(policy: str) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        type("BesideModel", (CacheBesideModel,), {"policy": policy}),
        settings=settings(max_examples=3 * settings().max_examples, stateful_step_count=40),
    )


def some_tokens(rng: random.Random) -> list[int]:
    runs = rng.choices([1, 1, 2, 3, 5, 8, 13, 20], k=rng.randint(0, 4))
    return [token for length in runs for token in [rng.choice([0, 0, 0, 1, 2])] * length][:60]


@pytest.mark.parametrize("policy", POLICY_MODELS)
@pytest.mark.parametrize("seed", range(10))
def test_random_lives(policy: str, seed: int) -> None:
    """The same with plain random numbers: many more steps in the same time."""
    rng = random.Random(seed)
    for _ in range(100):
        both = Beside(rng.randint(1, 40), policy)
        requests = [None, RequestInfo()]
        most_open = rng.choice([0, 2, 5, 20])
        for _ in range(60):
            if rng.random() < 0.5:
                requests.append(request_at(len(requests)))
            request = rng.choice(requests[-3:])
            action = rng.random()
            if action < 0.15:
                both.acquire(some_tokens(rng), request)
            elif action < 0.6:
                both.reserve(some_tokens(rng), request)
            elif action < 0.8 and both.reservations:
                reservation = rng.choice(both.reservations)
                part = rng.randint(0, len(reservation.ids))
                both.commit(reservation, rng.choice([part, None]))
            elif action < 0.95 and both.reservations:
                both.drop_reservation(rng.choice(both.reservations))
            elif both.leases:
                both.drop_lease(rng.choice(both.leases))
            if len(both.reservations) > most_open:
                both.drop_reservation(both.reservations[0])
            if len(both.leases) > most_open:
                both.drop_lease(both.leases[0])
            both.check()
        both.drop_everything()
        both.check()


@pytest.mark.parametrize("policy", POLICY_MODELS)
@pytest.mark.parametrize("seed", range(10))
def test_random_requests(policy: str, seed: int) -> None:
    """Whole requests, few of them broken off: what was evicted comes back, again and again."""
    rng = random.Random(seed)
    for _ in range(20):
        both = Beside(rng.randint(1, 30), policy)
        popular = [some_tokens(rng) for _ in range(rng.randint(2, 12))]
        request = RequestInfo()
        for _ in range(200):
            tokens = rng.choice(popular)
            if rng.random() < 0.3:
                tokens = tokens[: rng.randint(0, 60)] + some_tokens(rng)[:5]
            if rng.random() < 0.8:
                request = RequestInfo()
            if rng.random() < 0.9:
                both.serve(tokens, request)
            elif rng.random() < 0.5:
                both.reserve(tokens, request)
            else:
                both.acquire(tokens, request)
            if len(both.reservations) > 2:
                both.drop_reservation(both.reservations[0])
            if len(both.leases) > 2:
                both.drop_lease(both.leases[0])
            both.check()
        both.drop_everything()
        both.check()


SPAN = 2048  # the longest span that the core makes of one run of blocks
NEAR_BORDERS = [1, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN - 1, 2 * SPAN, 2 * SPAN + 1, 3 * SPAN + 5]


@pytest.mark.parametrize("policy", POLICY_MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_chains_longer_than_a_span(policy: str, seed: int) -> None:
    """Chains of thousands of blocks that part, stop and are committed around a span's borders."""
    rng = random.Random(seed)
    both = Beside(rng.choice([SPAN, 2 * SPAN + 1, 9000]), policy)
    for _ in range(60):
        length = rng.choice(NEAR_BORDERS)
        parts_at = rng.choice([*NEAR_BORDERS, length])
        tokens = [0] * min(length, parts_at) + [rng.randint(1, 2)] * max(0, length - parts_at)
        request = RequestInfo()
        match rng.randrange(4):
            case 0:
                both.acquire(tokens, request)
            case 1 | 2:
                reservation = both.reserve(tokens, request)
                if rng.random() < 0.7:
                    both.commit(reservation, rng.choice([None, len(reservation.ids) // 2]))
            case _ if both.reservations:
                reservation = rng.choice(both.reservations)
                count = rng.choice([SPAN - 1, SPAN, SPAN + 1])
                both.commit(reservation, min(count, len(reservation.ids)))
        if len(both.leases) > 1:
            both.drop_lease(both.leases[0])
        if len(both.reservations) > 2:
            both.drop_reservation(both.reservations[0])
        both.check()
    both.drop_everything()
    both.check()

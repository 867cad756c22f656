"""The hazard policy: what it learns of its requests, and what may come its way."""

from __future__ import annotations

from models.small_traces import hashes

from kvcore import PrefixCache, RequestInfo

SECOND = 1_000_000


def ask(
    cache: PrefixCache, tokens: list[int], request: RequestInfo, output_tokens: int = 100
) -> int:
    """One request from its start to its end; answers how many of its blocks were there."""
    with cache.acquire(hashes(tokens), request) as lease:
        with cache.reserve(hashes(tokens), request) as reservation:
            reservation.commit()
        cache.finish(request, output_tokens)
        return lease.num_blocks


# --- What may come its way ----------------------------------------------------------------------


def test_what_is_pinned_stays_while_ranks_change() -> None:
    """Many ranks are out of date at once, and what comes to the top may be pinned."""
    cache = PrefixCache(600, "hazard")
    leases = []
    for number in range(800):
        request = RequestInfo(arrival_us=number * SECOND // 10)
        ask(cache, [number], request)
        if number % 2 == 0:
            leases.append((number, cache.acquire(hashes([number]), request)))
        assert all(cache.match(hashes([token])) == lease.num_blocks for token, lease in leases)
    cache.check_invariants()

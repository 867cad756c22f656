"""``PrefixCache``: wrong calls are named, and nothing is lost or half done."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
from models.chains import hashes_of
from support.prefix_cache import numbers, put

from kvcore import (
    POLICIES,
    Lease,
    PrefixCache,
    RequestInfo,
    Reservation,
)


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

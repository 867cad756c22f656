"""The parts that stores written in Python are made of."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import redis as redis_py
from hypothesis import given
from hypothesis import strategies as st
from support.batches import chain
from support.redis_node import DONE, FAILED, MISS

from kvcore._core import BatchSource
from kvcore.stores import Outcome
from kvcore.stores.redis_replies import Replies


def a_source(
    num_blocks: int = 2, writable: bool = True
) -> tuple[BatchSource, np.ndarray[Any, Any]]:
    slab = np.zeros((num_blocks, 64), np.uint8)
    make = BatchSource.reading if writable else BatchSource.writing
    ids = np.arange(num_blocks, dtype=np.uint32)
    place = (slab.ctypes.data, 64, num_blocks, ids)
    return make(chain(num_blocks), None, *place, None, slab, 64), slab


def test_a_batch_that_is_lost_has_failed() -> None:
    source, _ = a_source(3)
    batch = source.batch
    source.decide(0, DONE)
    source.decide(1, MISS)
    source.let_go(1)
    assert batch.outcomes.tolist() == [DONE, MISS, Outcome.PENDING]
    assert not batch.is_quiet()
    del source
    assert batch.outcomes.tolist() == [DONE, MISS, FAILED]
    assert batch.is_quiet()


def test_memory_of_a_batch_is_the_slabs() -> None:
    source, slab = a_source()
    source.memory(1)[:3] = b"abc"
    assert slab[1, :3].tobytes() == b"abc"
    envelope = source.seal(1, bytes(16))
    assert len(envelope) == 128
    assert source.verify(1, bytes(16), envelope)
    assert not source.verify(0, bytes(16), envelope)
    assert not source.verify(1, b"x" * 16, envelope)
    slab[1, 5] ^= 1
    assert not source.verify(1, bytes(16), envelope)
    views = [source.memory(0), a_source(writable=False)[0].memory(0)]
    assert [view.readonly for view in views] == [False, True]
    owner = weakref.ref(slab)
    del source, slab
    gc.collect()
    assert owner() is not None
    views.clear()
    gc.collect()
    assert owner() is None


def test_wrong_use_of_a_batch_is_an_error() -> None:
    source, _ = a_source()
    source.decide(0, DONE)
    assert source.decide(0, FAILED) == DONE
    source.let_go(0)
    for call in (
        lambda: source.let_go(0),
        lambda: source.decide(0, DONE),
        lambda: source.memory(0),
        lambda: source.seal(0, bytes(16)),
        lambda: source.verify(0, bytes(16), bytes(128)),
    ):
        with pytest.raises(ValueError, match="let go"):
            call()
    with pytest.raises(ValueError, match="key must be"):
        source.memory(2)
    with pytest.raises(ValueError, match="envelope must be 128 bytes, got 5"):
        source.verify(1, bytes(16), b"short")
    with pytest.raises(ValueError, match="outcome must be a decision"):
        source.decide(1, Outcome.PENDING)
    with pytest.raises(ValueError, match="has no memory"):
        BatchSource.asking(chain(1), None, None).memory(0)


class Pieces:
    """A connection whose socket gives what it has in pieces of these sizes."""

    def __init__(self, stream: bytes, sizes: list[int]) -> None:
        self._sock = self
        self._stream, self._sizes = stream, sizes

    def recv_into(self, memory: memoryview) -> int:
        size = self._sizes.pop(0) if self._sizes else len(memory)
        part = self._stream[: min(size, len(memory))]
        self._stream = self._stream[len(part) :]
        memory[: len(part)] = part
        return len(part)


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-5, 1 << 40), st.binary(max_size=300), st.just("ok")),
        max_size=8,
    ),
    st.lists(st.integers(1, 40), max_size=200),
)
def test_replies_come_in_any_pieces(answers: list[Any], sizes: list[int]) -> None:
    stream = b""
    for answer in answers:
        if answer is None:
            stream += b"$-1\r\n"
        elif isinstance(answer, int):
            stream += b":%d\r\n" % answer
        elif isinstance(answer, str):
            stream += b"+ok\r\n"
        else:
            stream += b"$%d\r\n%b\r\n" % (len(answer), answer)
    whole = b"*%d\r\n" % len(answers) + stream
    replies = Replies()
    replies.on_connect(Pieces(whole + stream + whole, list(sizes)))
    expected = [b"ok" if answer == "ok" else answer for answer in answers]
    assert replies.read() == expected
    for answer in answers:
        if isinstance(answer, bytes) and len(answer) >= 4:
            head, rest = bytearray(4), bytearray(len(answer) - 4)
            assert replies.read_value(memoryview(head), memoryview(rest)) is True
            assert head + rest == answer
        elif isinstance(answer, bytes):
            assert replies.read_value(memoryview(bytearray(9)), memoryview(b"")) is False
        else:
            assert replies.read() == (b"ok" if answer == "ok" else answer)
    assert replies.read() == expected
    assert not replies.can_read()
    with pytest.raises(redis_py.ConnectionError):
        replies.read()


def test_errors_in_replies() -> None:
    replies = Replies()
    replies.on_connect(Pieces(b"-OOM no room\r\n-LOADING wait\r\n:1\r\n%1\r\n", []))
    assert isinstance(replies.read(), redis_py.exceptions.OutOfMemoryError)
    with pytest.raises(redis_py.exceptions.BusyLoadingError):
        replies.read()
    with pytest.raises(redis_py.exceptions.InvalidResponse):
        replies.read_value(memoryview(bytearray(1)), memoryview(bytearray(1)))
    with pytest.raises(redis_py.exceptions.InvalidResponse):
        replies.read()
    replies.on_connect(Pieces(b"x" * 20_000, []))
    with pytest.raises(redis_py.exceptions.InvalidResponse, match="no end"):
        replies.read()

"""Replies of a Redis server: long values go from the socket straight to where they are wanted."""

from __future__ import annotations

import socket
from typing import Any

from redis.connection import BaseParser  # type: ignore[attr-defined]
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

_BUFFER_BYTES = 16 << 10  # a line may be as long

Reply = bytes | int | list[Any] | ResponseError | None


class Replies(BaseParser):
    """What redis-py asks for its answers (RESP2), once for each connection.

    redis-py's own reader copies a value three times before anybody has it; this one reads it into
    the memory of the block. Not thread safe, but for `shut_down`.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # what was received and not yet read

    def on_connect(self, connection: Any) -> None:
        self._socket = connection._sock  # as redis-py's parsers take it
        self._start = self._end = 0

    def on_disconnect(self) -> None:
        self._socket = None

    def can_read(self, timeout: float = 0) -> bool:
        return self._start < self._end

    def shut_down(self) -> None:
        """Let whoever waits for an answer wait no longer."""
        try:
            if (receiving := self._socket) is not None:
                receiving.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Reply | str:
        """For redis-py, of what it says when it connects."""
        reply = self.read()
        return reply if disable_decoding or not isinstance(reply, bytes) else reply.decode()

    def read(self) -> Reply:
        """Any answer. An error that leaves the connection as it was is returned, not raised."""
        kind, rest = self._line()
        if kind == b"+":
            return rest
        if kind == b"-":
            return self._error(rest)
        if kind == b":":
            return int(rest)
        if kind not in (b"$", b"*"):
            raise InvalidResponse(f"an answer that begins with {kind!r}")
        length = int(rest)
        if length < 0:
            return None
        if kind == b"*":
            return [self.read() for _ in range(length)]
        value = bytearray(length + 2)
        self._fill(memoryview(value))
        return bytes(value[:-2])

    def read_value(self, envelope: memoryview, payload: memoryview) -> bool | ResponseError | None:
        """Read the answer to GET. False: there is a value, but of another size; None: there is
        none."""
        kind, rest = self._line()
        if kind == b"-":
            return self._error(rest)
        if kind != b"$":
            raise InvalidResponse(f"an answer to GET that begins with {kind!r}")
        length = int(rest)
        if length < 0:
            return None
        if length != len(envelope) + len(payload):
            self._skip(length + 2)
            return False
        self._fill(envelope)
        self._fill(payload)
        self._skip(2)
        return True

    def _error(self, text: bytes) -> ResponseError:
        error = self.parse_error(text.decode(errors="replace"))
        if isinstance(error, ConnectionError):  # it is loading its values, wants a password, ...
            raise error
        assert isinstance(error, ResponseError)
        return error

    def _line(self) -> tuple[bytes, bytes]:
        """The next line: its first byte, and the rest."""
        while (end := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            if self._start > 0:
                self._view[: self._end - self._start] = self._view[self._start : self._end]
                self._start, self._end = 0, self._end - self._start
            if self._end == _BUFFER_BYTES:
                raise InvalidResponse("an answer with a line that has no end")
            self._end += self._receive(self._view[self._end :])
        line = bytes(self._view[self._start : end])
        self._start = end + 2
        return line[:1], line[1:]

    def _fill(self, memory: memoryview) -> None:
        done = min(len(memory), self._end - self._start)
        memory[:done] = self._view[self._start : self._start + done]
        self._start += done
        while done < len(memory):
            done += self._receive(memory[done:])

    def _skip(self, num_bytes: int) -> None:
        buffered = min(num_bytes, self._end - self._start)
        self._start += buffered
        left = num_bytes - buffered
        while left > 0:  # then the buffer is empty
            left -= self._receive(self._view[: min(left, _BUFFER_BYTES)])

    def _receive(self, memory: memoryview) -> int:
        if self._socket is None:
            raise ConnectionError("the connection is closed")
        if not (received := self._socket.recv_into(memory)):
            raise ConnectionError("the server closed the connection")
        return received

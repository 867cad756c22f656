"""A server of InfiniStore's protocol that answers whatever a test wants."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType

from support import wire


class Act(Enum):
    """What a script may do besides answering with bytes."""

    CLOSE = "close"  # the connection
    RESET = "reset"  # the connection, with an error for the client
    SILENCE = "silence"  # for ever, whatever comes
    READ_VALUE = "read value"  # of a put, and be asked again


@dataclass(frozen=True)
class Request:
    """What a client asked.

    A script is asked about a put before its value was read, when `value` is none, and, if it says
    `READ_VALUE`, once more.
    """

    operation: bytes  # b"C", b"M", b"X", b"P", b"G", or what the header had
    keys: tuple[bytes, ...]
    value_bytes: int
    value: bytes | None
    body: bytes
    connection: int  # 0 for the first
    number: int  # on its connection, 0 for the first


Reply = bytes | Act
Script = Callable[[Request], "Reply | Iterable[Reply]"]


class HonestScript:
    """Answers as the real server, from memory; a script that lies seldom calls it."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def __call__(self, request: Request) -> Reply:
        values = self.values
        if request.operation == b"P":
            if request.value is None:
                return Act.READ_VALUE
            values[request.keys[0]] = request.value
            return wire.CODE.pack(wire.OK)
        if request.operation == b"G":
            value = values.get(request.keys[0])
            if value is None:
                return wire.CODE.pack(wire.MISSING)
            return wire.CODE.pack(wire.OK) + struct.pack("<I", len(value)) + value
        if request.operation == b"C":
            number = int(request.keys[0] not in values)
        elif request.operation == b"M":
            left, right = 0, len(request.keys)
            while left < right:
                middle = (left + right) // 2
                if request.keys[middle] in values:
                    left = middle + 1
                else:
                    right = middle
            number = left - 1
        elif request.operation == b"X":
            number = sum(values.pop(key, None) is not None for key in request.keys)
        else:
            return wire.CODE.pack(wire.INVALID)
        return wire.CODE.pack(wire.OK) + wire.CODE.pack(number)


class FakeServer:
    """Asks `script` about each request; a thread a connection, so a script may block.

    Attributes
    ----------
    address : tuple of str and int
    script : callable
        May be exchanged at any time.
    requests : list of Request
        All that came, in the order in which they were read.
    on_end : callable, optional
        Called when a connection has ended, with the error or none.
    errors : list of str
        What clients did against the protocol, and exceptions of the script.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or HonestScript()
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.on_end: Callable[[OSError | None], None] = lambda error: None
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            index = len(self._connections)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection, index), daemon=True).start()

    def _serve(self, connection: socket.socket, index: int) -> None:
        ended_by = None
        try:
            with connection:
                self._converse(connection, index)
        except OSError as error:
            ended_by = error
        self.on_end(ended_by)

    def _converse(self, connection: socket.socket, index: int) -> None:
        number = 0
        while header := _receive(connection, wire.HEADER.size):
            magic, operation, body_bytes = wire.HEADER.unpack(header)
            if magic != wire.MAGIC:
                self.errors.append(f"a header with magic {magic:#x}")
                return
            body = _receive(connection, body_bytes)
            try:
                request = _parse(operation, body, index, number)
                going_on = self._answer(connection, request)
            except OSError:
                raise
            except Exception as error:
                self.errors.append(repr(error))
                return
            if not going_on:
                return
            number += 1

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        """Returns whether the connection goes on."""
        with self._lock:
            self.requests.append(request)
        replies = self.script(request)
        for reply in (replies,) if isinstance(replies, bytes | Act) else replies:
            if isinstance(reply, bytes):
                connection.sendall(reply)
            elif reply is Act.READ_VALUE:
                value = _receive(connection, request.value_bytes)
                return self._answer(connection, replace(request, value=value))
            elif reply is Act.SILENCE:
                while connection.recv(1 << 16):
                    pass
                return False
            else:
                if reply is Act.RESET:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
        return True


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    """Returns nothing at the end of the stream, where nothing is due."""
    received = bytearray()
    while len(received) < num_bytes:
        part = connection.recv(min(num_bytes - len(received), 1 << 20))
        if not part:
            if received:
                raise ConnectionError("ended inside a request")
            return b""
        received += part
    return bytes(received)


def _parse(operation: bytes, body: bytes, connection: int, number: int) -> Request:
    keys: tuple[bytes, ...] = ()
    value_bytes = 0
    if operation == b"C":
        keys = (body,)
    elif operation in (b"M", b"X"):
        vector = _follow(body, _field(body, 0))
        count = _u32(body, vector)
        keys = tuple(_text(body, _follow(body, vector + 4 + 4 * i)) for i in range(count))
    elif operation == b"L":
        keys = (_text(body, _follow(body, _field(body, 0))),)
        length, kind = _field(body, 1), _field(body, 2)
        value_bytes = struct.unpack_from("<i", body, length)[0] if length else 0
        operation = body[kind : kind + 1]
    return Request(operation, keys, value_bytes, None, body, connection, number)


def _u32(body: bytes, at: int) -> int:
    number: int = struct.unpack_from("<I", body, at)[0]
    return number


def _field(body: bytes, index: int) -> int:
    """Where the field of the root table is, 0 where it has none."""
    table = _u32(body, 0)
    vtable = table - struct.unpack_from("<i", body, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", body, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", body, vtable + 4 + 2 * index)[0]
    return table + offset if offset else 0


def _follow(body: bytes, at: int) -> int:
    return at + _u32(body, at)


def _text(body: bytes, at: int) -> bytes:
    length = _u32(body, at)
    return body[at + 4 : at + 4 + length]

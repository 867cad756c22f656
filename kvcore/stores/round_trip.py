"""One round trip to an InfiniStore server over TCP: is it there, and does it return what it got?"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from itertools import pairwise

_HEADER = struct.Struct("<IcI")  # magic, operation, bytes of the body
_MAGIC = 0xDEADBEEF
_OK, _MISSING = 200, 404
_VALUE_BYTES = 4096


class RoundTripError(Exception):
    """The server answered, but not what it should; says what."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What each step took, in microseconds."""

    connect_us: float
    write_us: float
    read_us: float
    delete_us: float


def round_trip(host: str, port: int, timeout_s: float | None = None) -> RoundTrip:
    """Write a value of 4 KB under a key that nobody else has, read it, compare, delete it.

    A key that is read or deleted before its put was acknowledged kills the server, so this ends at
    the first step that fails; what it has written by then stays until it is evicted.

    Parameters
    ----------
    host : str
    port : int
    timeout_s : float, optional
        Of each wait for the server. A connection that is closed while its answer is under way can
        kill the server too, though with 4 KB it needs bad luck: without a limit this waits for
        ever, and a caller that keeps it in a thread of its own does no harm.

    Raises
    ------
    RoundTripError
        A wrong answer.
    OSError
        The server is not there, went away or was too slow.
    """
    key = b"kvcore-round-trip/" + secrets.token_hex(16).encode()
    value = secrets.token_bytes(_VALUE_BYTES)
    laps = [time.perf_counter()]
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        laps.append(time.perf_counter())

        connection.sendall(_payload_request(b"P", key, len(value)) + value)
        _expect(connection, "a write")
        laps.append(time.perf_counter())

        connection.sendall(_payload_request(b"G", key, 0))
        _expect(connection, "a read")  # a miss is the code alone
        num_bytes = _receive_number(connection)
        if num_bytes != len(value):
            raise RoundTripError(f"read {num_bytes:,} bytes where {len(value):,} were written")
        if _receive(connection, num_bytes) != value:
            raise RoundTripError("read other bytes than were written")
        laps.append(time.perf_counter())

        connection.sendall(_delete_request(key))
        _expect(connection, "a delete")
        num_deleted = _receive_number(connection)
        if num_deleted != 1:
            raise RoundTripError(f"deleted {num_deleted} keys where one was there")
        laps.append(time.perf_counter())
    steps = [1e6 * (end - start) for start, end in pairwise(laps)]
    return RoundTrip(*steps)


def _expect(connection: socket.socket, step: str) -> None:
    code = _receive_number(connection)
    if code == _MISSING:
        raise RoundTripError(f"{step} was answered with 'missing', right after it was written")
    if code != _OK:
        raise RoundTripError(f"{step} was answered with {code}")


def _receive_number(connection: socket.socket) -> int:
    number: int = struct.unpack("<i", _receive(connection, 4))[0]
    return number


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        if hasattr(socket, "TCP_QUICKACK"):  # else a small value comes 40 ms late
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = connection.recv(num_bytes - len(received))
        if not part:
            raise ConnectionError("the server closed the connection")
        received += part
    return bytes(received)


def _payload_request(operation: bytes, key: bytes, value_bytes: int) -> bytes:
    """With a FlatBuffer ``{key:string, value_length:int, op:byte}``: vtable, table, string."""
    vtable = struct.pack("<5H2x", 10, 16, 4, 8, 12)
    table = struct.pack("<iIic3x", 12, 12, value_bytes, operation)
    return _request(b"L", struct.pack("<I", 16) + vtable + table + _string(key))


def _delete_request(key: bytes) -> bytes:
    """With a FlatBuffer ``{keys:[string]}``: vtable, table, a vector of one, string."""
    vtable = struct.pack("<3H2x", 6, 8, 4)
    table = struct.pack("<iI", 8, 4)
    vector = struct.pack("<II", 1, 4)
    return _request(b"X", struct.pack("<I", 12) + vtable + table + vector + _string(key))


def _string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text + bytes(4 - len(text) % 4)


def _request(operation: bytes, body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, operation, len(body)) + body

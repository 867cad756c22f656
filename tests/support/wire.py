"""InfiniStore's protocol over TCP, spoken by hand, so that a test can stop anywhere in it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

MAGIC = 0xDEADBEEF
HEADER = struct.Struct("<IcI")  # magic, operation, bytes of the body
CODE = struct.Struct("<i")
OK, INVALID, MISSING, UNAVAILABLE, OUT_OF_MEMORY = 200, 400, 404, 503, 507


def frame(operation: bytes, body: bytes) -> bytes:
    return HEADER.pack(MAGIC, operation, len(body)) + body


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _string(text: bytes) -> bytes:
    """As FlatBuffers have it: length, text, NUL."""
    return _padded(struct.pack("<I", len(text)) + text + b"\0")


def payload_body(operation: bytes, key: bytes, value_bytes: int = 0) -> bytes:
    """``TCPPayloadRequest{key:string, value_length:int, op:byte}``."""
    # Offset of the table; its vtable (10 bytes, table of 16, fields at 4, 8, 12), two bytes of
    # padding; the table: back to the vtable, on to the string, the length, the operation.
    head = struct.pack("<I5H2xiIic3x", 16, 10, 16, 4, 8, 12, 12, 12, value_bytes, operation)
    return head + _string(key)


def keys_body(keys: Sequence[bytes]) -> bytes:
    """``{keys:[string]}``: of a match and of a delete."""
    # Offset of the table; its vtable (6 bytes, table of 8, field at 4), two bytes of padding; the
    # table: back to the vtable, on to the vector, which begins with its length.
    head = struct.pack("<I3H2xiII", 12, 6, 8, 4, 8, 4, len(keys))
    strings = [_string(key) for key in keys]
    offsets, at = b"", 4 * len(keys)
    for string in strings:
        offsets += struct.pack("<I", at)
        at += len(string) - 4
    return head + offsets + b"".join(strings)


def put_request(key: bytes, value_bytes: int) -> bytes:
    return frame(b"L", payload_body(b"P", key, value_bytes))


def get_request(key: bytes) -> bytes:
    return frame(b"L", payload_body(b"G", key))


def exists_request(key: bytes) -> bytes:
    return frame(b"C", key)


def match_request(keys: Sequence[bytes]) -> bytes:
    return frame(b"M", keys_body(keys))


def delete_request(keys: Sequence[bytes]) -> bytes:
    return frame(b"X", keys_body(keys))


class Connection:
    """One connection; what it does is one request and one answer, unless told otherwise.

    Raises ``TimeoutError`` after `timeout_s` and ``ConnectionError`` at the end of the stream.
    """

    def __init__(
        self, address: tuple[str, int], timeout_s: float = 5, *, quick_ack: bool = True
    ) -> None:
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._quick_ack = quick_ack

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close it so that the other side is told of an error."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, num_bytes: int) -> bytes:
        received = bytearray()
        while len(received) < num_bytes:
            if self._quick_ack:  # the system forgets it after some packets
                with suppress(OSError):
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            part = self.socket.recv(min(num_bytes - len(received), 1 << 20))
            if not part:
                raise ConnectionError(f"closed after {len(received)} of {num_bytes} bytes")
            received += part
        return bytes(received)

    def receive_code(self) -> int:
        code: int = CODE.unpack(self.receive(CODE.size))[0]
        return code

    def receive_number(self) -> int:
        """Of an answer with a code and a number."""
        code = self.receive_code()
        if code != OK:
            raise ConnectionError(f"answered {code}")
        return self.receive_code()

    def put(self, key: bytes, value: bytes) -> int:
        """Returns the code."""
        self.send(put_request(key, len(value)) + value)
        return self.receive_code()

    def put_part(self, key: bytes, part: bytes, value_bytes: int) -> None:
        """Send the request of a put, and of its value a part."""
        self.send(put_request(key, value_bytes) + part)

    def get(self, key: bytes) -> bytes | None:
        """Returns the value, or none where the key is missing."""
        self.send(get_request(key))
        code = self.receive_code()
        if code == MISSING:
            return None
        if code != OK:
            raise ConnectionError(f"answered {code}")
        return self.receive(struct.unpack("<I", self.receive(4))[0])

    def exists(self, key: bytes) -> bool:
        self.send(exists_request(key))
        return self.receive_number() == 0

    def match(self, keys: Sequence[bytes]) -> int:
        """Index of the last key that it takes for present, or -1."""
        self.send(match_request(keys))
        return self.receive_number()

    def delete(self, keys: Sequence[bytes]) -> int:
        """Returns how many there were."""
        self.send(delete_request(keys))
        return self.receive_number()

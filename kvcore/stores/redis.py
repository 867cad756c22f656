"""RedisStore: blocks on a Redis or Valkey server, shared by many nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from kvcore._core import Outcome
from kvcore.stores.lane import (
    ENVELOPE_BYTES,
    Call,
    Lane,
    LaneOptions,
    Part,
    ServerLostError,
    check_fingerprint,
    check_integer,
    check_seconds,
)
from kvcore.stores.lane_store import LaneStore

if TYPE_CHECKING:
    from redis import Connection

    from kvcore.stores.redis_replies import Replies, Reply

_MOST_VALUE_BYTES = (1 << 29) - 128  # with its envelope what a server takes by default
_BUFFERED_BYTES = 16 << 10  # copying so little costs less than another call of the kernel
_SENT_BYTES = 1 << 20  # in one call, which has `stall_s`
# As redis-py calls them.
REDIS_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
# What a URL may say of its connections, in redis-py's words.
CONNECTION_OPTIONS = (
    "db",
    "username",
    "password",
    "client_name",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_keyfile",
)


class RedisStore(LaneStore):
    """A store on one Redis or Valkey server, which other processes may use too.

    A block is one value, its envelope in front, under ``kv1/FINGERPRINT/VALUE_BYTES/HASH`` in
    hexadecimal. The server forgets by its own rule: give it `maxmemory` and the policy
    ``allkeys-lru``. What another process wrote is found by asking: `match` tells what this process
    knows. A server that is slow or dead costs `stall_s` once, then nothing until it is well again.
    Servers of a Redis Cluster refuse what is not theirs; that fails.

    Parameters
    ----------
    url : str
        As redis-py has it: ``redis://[USER:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://`` with TLS,
        ``unix://PATH``; ``valkey://`` and ``valkeys://`` are the same as the first two. Its query
        may have ``db``, ``username``, ``password``, ``client_name`` and redis-py's options ``ssl_``
        ``ca_certs``, ``ca_path``, ``certfile``, ``keyfile``, ``cert_reqs`` and ``check_hostname``.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int
        Bytes of a block, up to 2**29 - 128.
    connections : int
        Each with a thread, 1 to 64.
    ttl_s : float, optional
        A value leaves so long after it was last put, in seconds, up to 10 years. None: it stays.
    stall_s : float
        A server that is to answer and says nothing for so long is given up.
    first_probe_s, last_probe_s : float
        When a server that was given up is asked again: at first, and at most.
    record_age_s : float
        How long a process relies on a value that it knows to be there.
    max_queued_bytes : int
        What may wait to be written. What is above is not written.

    Raises
    ------
    ImportError
        redis-py is missing: ``pip install 'kvcore[redis]'``.
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    """

    def __init__(
        self,
        url: str,
        fingerprint: bytes,
        value_bytes: int,
        *,
        connections: int = 4,
        ttl_s: float | None = None,
        stall_s: float = 0.25,
        first_probe_s: float = 0.1,
        last_probe_s: float = 5.0,
        record_age_s: float = 60.0,
        max_queued_bytes: int = 256 << 20,
    ) -> None:
        check_fingerprint(fingerprint)
        check_integer("value_bytes", value_bytes, 1, _MOST_VALUE_BYTES)
        check_integer("connections", connections, 1, 64)
        if ttl_s is not None:
            check_seconds("ttl_s", ttl_s, most=10 * 366 * 86_400)
        options = LaneOptions(stall_s, first_probe_s, last_probe_s, record_age_s, max_queued_bytes)
        new_connection = _connections_to(url, stall_s)
        lanes: list[Lane] = [
            _RedisLane(new_connection, fingerprint, value_bytes, ttl_s) for _ in range(connections)
        ]
        super().__init__(lanes, value_bytes, options)


def _connections_to(url: str, stall_s: float) -> Callable[[Replies], Connection]:
    """Makes connections, not yet connected. ValueError: there can be none to this URL."""
    try:
        from redis.connection import Connection, parse_url
        from redis.exceptions import RedisError

        from kvcore.stores.redis_replies import Replies
    except ImportError:
        raise ImportError("redis-py is missing: pip install 'kvcore[redis]'") from None
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if scheme not in REDIS_SCHEMES or not separator:
        schemes = " or ".join(f"{known}://" for known in REDIS_SCHEMES)
        raise ValueError(f"url must begin with {schemes}, got {scheme!r}")
    parts = urlsplit(url)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in CONNECTION_OPTIONS:
            names = ", ".join(CONNECTION_OPTIONS)
            raise ValueError(f"url must have options of {names}, got {name!r}")
    path = parts.path.strip("/")
    if scheme == "unix":
        if not path:
            raise ValueError("url must have a path after unix://")
    elif not parts.hostname:
        raise ValueError(f"url must have a host after {scheme}://")
    elif path and not path.isdecimal():
        raise ValueError(f"url must have a number as its database, got {path!r}")
    forced = {"socket_timeout": stall_s, "socket_connect_timeout": stall_s, "protocol": 2}

    def new(replies: Replies) -> Connection:
        told = dict(parse_url(f"{REDIS_SCHEMES[scheme]}://{rest}")) | forced
        # redis-py calls a class here; it gets the one object that the lane reads from.
        connection: Connection = told.pop("connection_class", Connection)(
            **told, parser_class=lambda **_: replies
        )
        return connection

    try:
        new(Replies())
    except (TypeError, ValueError, RedisError) as error:
        raise ValueError(f"url must be one that redis-py can use, which says: {error}") from None
    return new


class _RedisLane(Lane):
    """One connection."""

    def __init__(
        self,
        new_connection: Callable[[Replies], Connection],
        fingerprint: bytes,
        value_bytes: int,
        ttl_s: float | None,
    ) -> None:
        from kvcore.stores.redis_replies import Replies

        self._replies = Replies()
        self._connection = new_connection(self._replies)
        self._fingerprint = fingerprint
        self._prefix = f"kv1/{fingerprint.hex()}/{value_bytes}/".encode()
        self._stored_bytes = ENVELOPE_BYTES + value_bytes
        self._envelope = memoryview(bytearray(ENVELOPE_BYTES))
        self._ttl_ms = None if ttl_s is None else b"%d" % max(1, round(1000 * ttl_s))

    def connect(self) -> None:
        with _server_errors():
            self._connection.connect()
            (answer,) = self._ask([(b"PING",)])
            if answer != b"PONG":
                raise ServerLostError(f"PING was answered with {answer!r}")

    def disconnect(self) -> None:
        self._connection.disconnect()

    def abort(self) -> None:
        self._replies.shut_down()

    def do(self, part: Part) -> None:
        if keys := part.wanted():
            names = {key: self._prefix + part.source.hash(key).hex().encode() for key in keys}
            with _server_errors():
                match part.call:
                    case Call.GET:
                        self._get(part, names)
                    case Call.PUT:
                        self._put(part, names)
                    case Call.CONTAINS:
                        self._contains(part, names)
                    case Call.REMOVE:
                        self._remove(part, names)

    def _get(self, part: Part, names: dict[int, bytes]) -> None:
        self._send(_packed([(b"GET", name) for name in names.values()]))
        corrupt = {}
        for key, name in names.items():
            found = self._replies.read_value(self._envelope, part.source.memory(key))
            if found is None:
                outcome = Outcome.MISS
            elif found is True and part.source.verify(key, self._fingerprint, self._envelope):
                outcome = Outcome.DONE
            elif isinstance(found, Exception) and not _is_of_other_kind(found):
                outcome = Outcome.FAILED
            else:
                corrupt[key] = (b"UNLINK", name)
                continue
            part.settle(key, outcome)
        try:
            self._ask(list(corrupt.values()))
        finally:  # who is told may put it again at once
            for key in corrupt:
                part.settle(key, Outcome.CORRUPT)

    def _put(self, part: Part, names: dict[int, bytes]) -> None:
        """Sends what is not there, or is no value of this size and so none of ours."""
        there = self._sizes(names)
        if self._ttl_ms is not None:
            ours = [key for key, size in there.items() if size == self._stored_bytes]
            renewed = self._ask([(b"PEXPIRE", names[key], self._ttl_ms) for key in ours])
            there |= {key: 0 for key, was in zip(ours, renewed, strict=True) if was != 1}
        sent = []
        buffered = bytearray()
        for key, size in there.items():
            if size is None:
                part.settle(key, Outcome.FAILED)
            elif size == self._stored_bytes:
                part.settle(key, Outcome.DONE)
            elif not part.source.is_wanted(key):
                part.settle(key, Outcome.TIMED_OUT)
            else:
                buffered = self._begin_to_send(part, key, names[key], size != 0, buffered)
                sent.append(key)
        self._send(buffered)
        for key in sent:
            answer = self._replies.read()
            if answer is None or answer == b"OK":  # None: somebody else was faster
                part.settle(key, Outcome.DONE, was_written=answer is not None)
            else:
                part.settle(key, Outcome.MISS if _is_full(answer) else Outcome.FAILED)

    def _begin_to_send(
        self, part: Part, key: int, name: bytes, replaces: bool, buffered: bytearray
    ) -> bytearray:
        """Send a value without copying it, after what is buffered; returns what is buffered then:
        the end of the command, or all of it where it is short."""
        options = [] if replaces else [b"NX"]
        if self._ttl_ms is not None:
            options += [b"PX", self._ttl_ms]
        value = part.source.memory(key)
        buffered += b"*%d\r\n$3\r\nSET\r\n" % (3 + len(options))
        buffered += b"$%d\r\n%b\r\n$%d\r\n" % (len(name), name, self._stored_bytes)
        buffered += part.source.seal(key, self._fingerprint)
        if len(value) <= _BUFFERED_BYTES:
            buffered += value
        if len(value) > _BUFFERED_BYTES or len(buffered) > _SENT_BYTES:
            self._send(buffered)
            buffered = bytearray()
        if len(value) > _BUFFERED_BYTES:
            for i in range(0, len(value), _SENT_BYTES):
                self._send(value[i : i + _SENT_BYTES])
        buffered += b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(o), o) for o in options)
        return buffered

    def _contains(self, part: Part, names: dict[int, bytes]) -> None:
        for key, size in self._sizes(names).items():
            if size is None:
                part.settle(key, Outcome.FAILED)
            else:
                part.settle(key, Outcome.DONE if size == self._stored_bytes else Outcome.MISS)

    def _remove(self, part: Part, names: dict[int, bytes]) -> None:
        answers = self._ask([(b"UNLINK", name) for name in names.values()])
        outcomes = {0: Outcome.MISS, 1: Outcome.DONE}
        for key, answer in zip(names, answers, strict=True):
            part.settle(key, outcomes[answer] if isinstance(answer, int) else Outcome.FAILED)

    def _sizes(self, names: dict[int, bytes]) -> dict[int, int | None]:
        """Bytes of what is there: 0 for nothing, -1 for what is no string, None where the server
        refuses. It counts as used by that."""
        answers = self._ask([(b"STRLEN", name) for name in names.values()])
        return {
            key: answer if isinstance(answer, int) else -1 if _is_of_other_kind(answer) else None
            for key, answer in zip(names, answers, strict=True)
        }

    def _ask(self, commands: Sequence[tuple[bytes, ...]]) -> list[Reply]:
        self._send(_packed(commands))
        return [self._replies.read() for _ in commands]

    def _send(self, piece: bytes | bytearray | memoryview) -> None:
        if piece:
            self._connection.send_packed_command([piece], check_health=False)


@contextmanager
def _server_errors() -> Iterator[None]:
    """Errors of sockets and of redis-py, as `ServerLostError`."""
    from redis.exceptions import ConnectionError as Closed
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise ServerLostError(
            error, was_closed=isinstance(error, Closed | ConnectionError)
        ) from error


def _packed(commands: Sequence[tuple[bytes, ...]]) -> bytes:
    parts = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def _is_of_other_kind(answer: object) -> bool:
    """Whether somebody else keeps something there that is no string."""
    return isinstance(answer, Exception) and str(answer).startswith("WRONGTYPE")


def _is_full(answer: object) -> bool:
    from redis.exceptions import OutOfMemoryError

    return isinstance(answer, OutOfMemoryError)

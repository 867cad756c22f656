"""A lane: one connection of a store that is written in Python, and the parts of batches it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from kvcore._core import BatchSource, Outcome

ENVELOPE_BYTES = 128


class ServerLostError(Exception):
    """The server is gone, too slow, or cannot be understood.

    `was_closed` says that the connection had ended, as idle ones do and those of a server that was
    started again: a new one may be fine.
    """

    def __init__(self, why: object, *, was_closed: bool = False) -> None:
        super().__init__(str(why))
        self.was_closed = was_closed


class Call(Enum):
    GET = "get"
    PUT = "put"
    CONTAINS = "contains"
    REMOVE = "remove"


# What became of a key: the call, its hash, what was found out, what stands, whether it was written.
Count = Callable[[Call, bytes, Outcome, Outcome, bool], None]


class Part:
    """Keys of a batch that one lane does together. What it does not settle has failed."""

    def __init__(self, call: Call, source: BatchSource, keys: range, count: Count) -> None:
        self.call = call
        self.source = source
        self._count = count
        self._open = dict.fromkeys(keys)

    def wanted(self) -> list[int]:
        """The keys that there is still something to do for; lets go of the others."""
        for key in list(self._open):
            if not self.source.is_wanted(key):
                self.settle(key, Outcome.TIMED_OUT)
        return list(self._open)

    def settle(self, key: int, outcome: Outcome, *, was_written: bool = False) -> None:
        """Decide a key and let go of its memory."""
        del self._open[key]
        stands = self.source.decide(key, outcome)
        self._count(self.call, self.source.hash(key), outcome, stands, was_written)
        self.source.let_go(key)

    def settle_rest(self, outcome: Outcome) -> None:
        for key in list(self._open):
            self.settle(key, outcome)


class Lane(ABC):
    """A connection; of one thread at a time, but for `abort`. Errors are `ServerLostError`.

    `limit_s` is for what has no time limit of its own: while one call takes longer, the server is
    given up.
    """

    limit_s: float | None = None

    @abstractmethod
    def connect(self) -> None:
        """Connect anew and hear from the server, or raise."""

    @abstractmethod
    def disconnect(self) -> None: ...

    @abstractmethod
    def abort(self) -> None:
        """End what the lane waits for, from another thread, as far as that is possible."""

    @abstractmethod
    def do(self, part: Part) -> None:
        """Settle the keys of a part."""


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """See `kvcore.stores.RedisStore`."""

    stall_s: float
    first_probe_s: float
    last_probe_s: float
    record_age_s: float
    max_queued_bytes: int

    def __post_init__(self) -> None:
        for name in ("stall_s", "first_probe_s", "last_probe_s", "record_age_s"):
            check_seconds(name, getattr(self, name))
        check_integer("max_queued_bytes", self.max_queued_bytes, 0, 1 << 46)


def check_seconds(name: str, value: float, most: float = 3600) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 < value <= most:
        raise ValueError(f"{name} must be above 0 and at most {most}, got {value}")


def check_fingerprint(value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != 16:
        raise TypeError(
            f"fingerprint must be 16 bytes, as Namespace.fingerprint is, got {value!r:.40}"
        )


def check_integer(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")

"""Whether a store works from here: what each step of a round trip takes, and what to do."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import numpy as np

from kvcore.cluster import ClusterError
from kvcore.diagnosis import Facts
from kvcore.stores import Batch, DiskStore, InfiniStoreStore, Outcome, Store, open_store
from kvcore.stores.round_trip import RoundTrip, RoundTripError, round_trip
from kvcore.stores.url import parse_size

# Eight blocks of one chain, which servers keep as one value.
_NUM_VALUES = 8
_VALUE_BYTES = 64 << 10
_ROUND_TRIPS = 3  # the best of them counts
_PROBE_DISK_BYTES = 16 << 20
# A read that waits for a delayed acknowledgement takes 40 ms and a bit.
_NAGLE_US = 35_000
_FAR_US = 5_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be.

    Attributes
    ----------
    where : str
        ``store``, or a server's ``host:port``.
    what, advice : str
        What was seen, and what to do about it.
    has_failed : bool
        Whether blocks cannot be kept there, and not only slowly.
    """

    where: str
    what: str
    advice: str
    has_failed: bool = True


@dataclass(slots=True)
class StoreDiagnosis:
    """What `diagnose_store` found.

    Attributes
    ----------
    url : str
        Without a password.
    store : dict
        Facts of the store as a whole; steps in microseconds.
    servers : dict of str to dict
        Facts of each server, by ``host:port``.
    findings : list of Finding
    """

    url: str
    store: Facts = field(default_factory=dict)
    servers: dict[str, Facts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not any(finding.has_failed for finding in self.findings)


def diagnose_store(url: str, timeout_s: float = 2.0) -> StoreDiagnosis:
    """Open a store, write values that nobody else has, read and compare them, remove them.

    Servers of ``infinistore:`` are also asked one by one, all at the same time. What a store on
    disk does is tried in a directory of its own beside or in that of the URL, which is removed
    again, so that a store in use is not disturbed.

    Parameters
    ----------
    url : str
        As `kvcore.stores.open_store` takes it.
    timeout_s : float
        Of each step, above 0, and of all servers together.

    Raises
    ------
    TypeError, ValueError
        The URL names no store or a wrong option, or `timeout_s` is not allowed.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout_s must be a number, got {type(timeout_s).__name__}")
    if not 0 < timeout_s <= 3600:
        raise ValueError(f"timeout_s must be above 0 and at most 3600, got {timeout_s!r}")
    diagnosis = StoreDiagnosis(_without_password(url))
    with ExitStack() as stack:
        start = time.perf_counter()
        try:
            store = stack.enter_context(_opened(url, diagnosis.store))
        except OSError as error:
            diagnosis.findings.append(
                Finding("store", f"it does not open: {error}", _open_advice(error))
            )
            return diagnosis
        diagnosis.store["open_us"] = _us_since(start)
        if isinstance(store, InfiniStoreStore):
            _check_servers(list(store.server_stats()), timeout_s, diagnosis)
        if isinstance(store, DiskStore):
            diagnosis.store |= {"io": store.io, "is_direct": store.is_direct}
        if diagnosis.is_well:
            _check_values(store, timeout_s, diagnosis)
        else:
            diagnosis.store["round_trip"] = "not tried, since a server is not well"
    return diagnosis


def _without_password(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    return url.replace(f"{login}@", "***@", 1) if at and place else url


@contextmanager
def _opened(url: str, facts: Facts) -> Iterator[Store]:
    facts["scheme"] = urlsplit(url).scheme
    with ExitStack() as stack:
        if urlsplit(url).scheme == "disk":
            url = stack.enter_context(_beside_what_is_there(url, facts))
        store = open_store(url, secrets.token_bytes(16), _VALUE_BYTES)
        stack.callback(store.close)
        yield store


@contextmanager
def _beside_what_is_there(url: str, facts: Facts) -> Iterator[str]:
    """The URL of a small store in a new directory on the same file system."""
    parts = urlsplit(url)
    if not parts.path:
        yield url  # which says what is wrong
        return
    directory = Path(unquote(parts.path)).absolute()
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    facts |= {"directory": str(directory), "is_there": there == directory, "free_bytes": free}
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    open_small = {**options, "max_bytes": str(_PROBE_DISK_BYTES)}
    if "max_bytes" in options:
        facts["max_bytes"] = parse_size("max_bytes", options["max_bytes"])
    with tempfile.TemporaryDirectory(prefix=".kvcore-doctor-", dir=there) as probe:
        path = quote(os.path.join(probe, "store"))
        yield urlunsplit(("disk", "", path, urlencode(open_small), ""))


def _open_advice(error: OSError) -> str:
    if isinstance(error, ClusterError):
        return "the name has no address from here: is it spelt right, and does DNS know it?"
    return "can this user make files there? else choose another directory"


# --- The store as a whole -----------------------------------------------------------------------


def _check_values(store: Store, timeout_s: float, diagnosis: StoreDiagnosis) -> None:
    facts = diagnosis.store
    facts |= {"num_values": _NUM_VALUES, "value_bytes": _VALUE_BYTES}
    hashes = np.frombuffer(secrets.token_bytes(16 * _NUM_VALUES), np.uint8).reshape(-1, 16)
    positions = np.arange(_NUM_VALUES)
    written = np.frombuffer(secrets.token_bytes(_NUM_VALUES * _VALUE_BYTES), np.uint8)
    written = written.reshape(_NUM_VALUES, _VALUE_BYTES)
    slab = written.copy()

    def fails(step: str, begin: Callable[[], Batch], expected: Outcome = Outcome.DONE) -> bool:
        start = time.perf_counter()
        batch = begin()
        batch.wait()
        facts[f"{step}_us"] = _us_since(start)
        came = [Outcome(outcome) for outcome in batch.outcomes.tolist()]
        wrong = [outcome for outcome in came if outcome not in (Outcome.DONE, expected)]
        if wrong:
            diagnosis.findings.append(_step_finding(step, wrong, timeout_s))
        return bool(wrong)

    where = slab, positions, timeout_s
    if fails("write", lambda: store.put_from(hashes, *where, positions=positions)):
        return
    slab[:] = ~written
    is_lost = fails("read", lambda: store.get_into(hashes, *where, positions=positions))
    facts["is_verified"] = not is_lost and np.array_equal(slab, written)
    if not is_lost and not facts["is_verified"]:
        diagnosis.findings.append(
            Finding("store", "it handed out other bytes than were written", "report this: a bug")
        )
    # What was lost can not be removed.
    expected = Outcome.MISS if is_lost else Outcome.DONE
    fails("delete", lambda: store.remove(hashes, timeout_s, positions=positions), expected)
    left = store.contains(hashes, timeout_s, positions=positions)
    left.wait()
    facts["left_over"] = int(np.count_nonzero(left.outcomes == Outcome.DONE))
    if facts["left_over"]:
        what = (
            f"{facts['left_over']} of {_NUM_VALUES} values are still there after they were removed"
        )
        diagnosis.findings.append(
            Finding("store", what, "another copy is kept: they leave when the store needs room")
        )


_OUTCOME_ADVICE = {
    Outcome.MISS: "is there room for it? raise max_bytes, or start the server with more memory",
    Outcome.CORRUPT: "something on the way changes bytes: check memory, disk and network there",
    Outcome.TIMED_OUT: "is it overloaded, or far away? --timeout-s waits longer",
    Outcome.FAILED: "it refuses or breaks off: its log says why; is the disk full?",
}


def _step_finding(step: str, wrong: Sequence[Outcome], timeout_s: float) -> Finding:
    outcome = wrong[0]
    what = f"{step}: {len(wrong)} of {_NUM_VALUES} values came back as {outcome.name.lower()}"
    if outcome == Outcome.TIMED_OUT:
        what += f" after {timeout_s:g} s"
    if step == "read" and outcome == Outcome.MISS:
        lost = "it lost what it had acknowledged: is it full? raise max_bytes, or its memory"
        return Finding("store", what, lost)
    advice = _OUTCOME_ADVICE.get(outcome, "ask again")
    return Finding("store", what, advice)


# --- Servers ------------------------------------------------------------------------------------


def _check_servers(names: list[str], timeout_s: float, diagnosis: StoreDiagnosis) -> None:
    checks = {name: _ServerCheck(name, timeout_s) for name in names}
    for name, check in checks.items():
        diagnosis.servers[name], findings = check.result()
        diagnosis.findings += findings


class _ServerCheck:
    """Asks one server on threads of its own, which may outlive it: to close a connection on which
    an answer is under way could end the server."""

    def __init__(self, name: str, timeout_s: float) -> None:
        host, _, port = name.rpartition(":")
        self._name, self._timeout_s = name, timeout_s
        address = host.strip("[]"), int(port)
        self._until = time.monotonic() + timeout_s
        self._reached = _Task(lambda: _connect(address, timeout_s))
        self._trips = _Task(lambda: [round_trip(*address) for _ in range(_ROUND_TRIPS)])

    def result(self) -> tuple[Facts, list[Finding]]:
        # The protocol has no question for a version.
        facts: Facts = {"is_reachable": False, "version": None}
        try:
            self._reached.result(self._until)
            facts["is_reachable"] = True
            trips = self._trips.result(self._until)
        except (OSError, RoundTripError) as error:
            is_reachable = bool(facts["is_reachable"])
            what, advice = _server_advice(error, is_reachable, self._timeout_s)
            return facts, [Finding(self._name, what, advice)]
        best = RoundTrip(
            *(
                min(getattr(trip, step) for trip in trips)
                for step in ("connect_us", "write_us", "read_us", "delete_us")
            )
        )
        for step in ("connect_us", "write_us", "read_us", "delete_us"):
            facts[step] = round(getattr(best, step))
        facts |= {"is_verified": True, "left_over": 0}  # else there was an error
        return facts, list(_slow(self._name, best))


def _server_advice(error: Exception, is_reachable: bool, timeout_s: float) -> tuple[str, str]:
    if isinstance(error, RoundTripError):
        if "507" in str(error):
            return str(error), "it has no memory left: start it with more (--memory-gib)"
        return str(error), "is it an InfiniStore server of 0.2.35, and is that its --service-port?"
    if is_reachable and isinstance(error, TimeoutError):
        return (
            f"it accepts connections and has not answered within {timeout_s:g} s",
            "is the port its --service-port? then it is stopped, overloaded or hangs: after a "
            "crash it can be deaf even to SIGTERM; kill -9 it and start it again",
        )
    if is_reachable:
        return (
            f"it broke off: {error}",
            "is that the port for data (--service-port), and not that of /purge or /health? "
            "else it died on the way: its log says why",
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            "the connection was refused",
            "is the server running, and is the port its --service-port (22345 by default)?",
        )
    if isinstance(error, TimeoutError):
        return (
            f"no connection within {timeout_s:g} s",
            "a firewall or a NetworkPolicy drops it, or the address is wrong: let this host "
            "through the fence around the server",
        )
    return f"no connection: {error}", "is there a route from here to that address?"


def _slow(name: str, best: RoundTrip) -> Iterator[Finding]:
    if best.connect_us > _FAR_US:
        yield Finding(
            name,
            f"a connection takes {best.connect_us / 1000:.1f} ms",
            "it is far away: raise stall_s and patience_s above that, and chunk_blocks",
            has_failed=False,
        )
    elif best.read_us > _NAGLE_US > best.write_us:
        yield Finding(
            name,
            f"a read of 4 KB takes {best.read_us / 1000:.0f} ms, "
            f"a write {best.write_us / 1000:.1f} ms",
            "at 40 to 45 ms the server waits (Nagle) for an acknowledgement that comes late: read "
            "where the system has TCP_QUICKACK (Linux), with no proxy in between, or give the "
            "server TCP_NODELAY",
            has_failed=False,
        )


def _connect(address: tuple[str, int], timeout_s: float) -> None:
    socket.create_connection(address, timeout_s).close()


class _Task(Generic[_T]):
    """Does something on a thread of its own, which nobody has to wait for."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._result: _T
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, until: float) -> _T:
        """Waits until then, by ``time.monotonic``; raises TimeoutError, or what it raised."""
        self._thread.join(max(until - time.monotonic(), 0))
        if self._thread.is_alive():
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error


def _us_since(start: float) -> int:
    return round(1e6 * (time.perf_counter() - start))

"""The threads of a store that is written in Python, each with a lane of its own."""

from __future__ import annotations

import atexit
import math
import os
import random
import threading
import time
import weakref
from collections import deque
from typing import Final

from kvcore._core import Batch, BatchSource, Outcome, StoreStats
from kvcore.stores.lane import Call, Lane, LaneOptions, Part, ServerLostError

_MOST_KNOWN = 1 << 20
_MOST_PART_BYTES = 2 << 20
_LEAST_PART_BYTES = 256 << 10  # is not worth more than one round trip
_MOST_PART_KEYS = 256
_COUNTED = {
    Outcome.MISS: "misses",
    Outcome.TIMED_OUT: "timed_out",
    Outcome.FAILED: "failed",
}


class Lanes:
    """The threads of a store, what they have to do, and whether the server is well.

    The first error gives the server up: what waits fails, what comes fails at once, until the
    first thread has heard from the server again, which it tries after pauses that double. Reads
    go before writes. `_changed` guards all that is below it, and nobody holds it while he waits
    for the server.
    """

    def __init__(self, lanes: list[Lane], value_bytes: int, options: LaneOptions) -> None:
        self._value_bytes: Final = value_bytes
        self._options: Final = options
        self._lanes = lanes
        self._num_lanes: Final = len(lanes)
        self._changed = threading.Condition()
        self._reads: deque[Part] = deque()
        self._writes: deque[Part] = deque()
        self._under_way: set[Part] = set()
        self._queued_bytes = 0  # of what is put, until it is settled
        self._counts = dict.fromkeys(
            ("gets", "hits", "misses", "corrupt", "timed_out", "failed", "puts", "written"), 0
        )
        self._known: dict[bytes, float] = {}  # when it was learnt that a value is there
        self._is_closed = False
        self._last_error: str | None = None
        self._is_well = True
        self._times_lost = 0  # a connection is of the time between two losses
        self._pause_s = 0.0
        self._next_probe = 0.0
        self._since: list[float | None] = [None] * len(lanes)  # when each began with what it does
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"kvcore-lane-{i}", daemon=True)
            for i in range(len(lanes))
        ]
        for thread in self._threads:
            thread.start()
        _ALL.add(self)

    def forget(self) -> None:
        """In a forked child, which has neither the threads nor the locks that they hold; and the
        connections are the parent's."""
        self._changed = threading.Condition()
        self._lanes, self._threads = [], []
        self._under_way.clear()
        self._is_closed = True

    # For the store's callers.

    @property
    def last_error(self) -> str | None:
        """Why the server is given up; None while it is well."""
        with self._changed:
            return None if self._is_well else self._last_error

    def submit(self, call: Call, source: BatchSource) -> Batch:
        """Begin with a batch, or decide it at once."""
        batch, num_keys = source.batch, source.num_keys
        self._watch()
        refused = Outcome.FAILED
        with self._changed:
            if call is Call.GET:
                self._counts["gets"] += num_keys
            elif call is Call.PUT:
                self._counts["puts"] += num_keys
            admitted = num_keys if self._is_well and not self._is_closed else 0
            if self._is_closed and call is not Call.PUT:
                refused = Outcome.MISS
            elif call is Call.PUT:
                if admitted:
                    refused = Outcome.MISS
                    room = self._options.max_queued_bytes - self._queued_bytes
                    admitted = min(admitted, max(0, room // self._value_bytes))
                self._queued_bytes += num_keys * self._value_bytes
            queue = self._writes if call is Call.PUT else self._reads
            for keys in self._cut(call, admitted):
                queue.append(Part(call, source, keys, self._count))
                self._changed.notify()
        Part(call, source, range(admitted, num_keys), self._count).settle_rest(refused)
        return batch

    def match(self, hashes: list[bytes]) -> int:
        """How many values from the first on are known to be there."""
        oldest = time.monotonic() - self._options.record_age_s
        with self._changed:
            if self._is_closed:
                return 0
            for i, name in enumerate(hashes):
                if self._known.get(name, -math.inf) < oldest:
                    return i
        return len(hashes)

    def stats(self) -> StoreStats:
        with self._changed:
            moved = {
                "read_bytes": self._counts["hits"] * self._value_bytes,
                "written_bytes": self._counts["written"] * self._value_bytes,
            }
            return StoreStats(num_values=len(self._known), **self._counts, **moved)

    def close(self) -> None:
        """End what is under way, and wait until its memory is let go."""
        self.end()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)
        self.join(self._options.stall_s)

    def join(self, limit_s: float) -> None:
        """Wait for the threads, after `end`."""
        until = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def has_ended(self) -> bool:
        """Whether no thread is left."""
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """End what is under way. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._known.clear()
            waiting = [*self._reads, *self._writes]
            self._reads.clear()
            self._writes.clear()
            under_way = list(self._under_way)
            self._changed.notify_all()
        for part in [*waiting, *under_way]:
            part.source.cancel()
        for part in waiting:
            part.settle_rest(Outcome.CANCELLED)
        for lane in self._lanes:
            lane.abort()

    # For parts.

    def _count(
        self, call: Call, name: bytes, outcome: Outcome, stands: Outcome, was_written: bool
    ) -> None:
        """What became of a key; what was found out counts also where it came too late."""
        with self._changed:
            if call is Call.PUT:
                self._queued_bytes -= self._value_bytes
                self._counts["written"] += was_written
            if call in (Call.GET, Call.PUT):
                self._counts["corrupt"] += outcome == Outcome.CORRUPT
                self._counts["hits"] += call is Call.GET and stands == Outcome.DONE
                if (counted := _COUNTED.get(stands)) and (call is Call.GET or counted != "misses"):
                    self._counts[counted] += 1
            if outcome == Outcome.DONE and call is not Call.REMOVE and not self._is_closed:
                self._known.pop(name, None)  # to the end
                self._known[name] = time.monotonic()
                if len(self._known) > _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
            elif outcome in (Outcome.DONE, Outcome.MISS, Outcome.CORRUPT):
                self._known.pop(name, None)

    # For the threads.

    def _cut(self, call: Call, num_keys: int) -> list[range]:
        """Parts that are worth a round trip, for as many lanes as there are."""
        most, least = _MOST_PART_KEYS, _MOST_PART_KEYS
        if call in (Call.GET, Call.PUT):
            most = min(most, max(1, _MOST_PART_BYTES // self._value_bytes))
            least = min(most, max(1, _LEAST_PART_BYTES // self._value_bytes))
        step = min(most, max(least, -(-num_keys // self._num_lanes)))
        return [range(i, min(i + step, num_keys)) for i in range(0, num_keys, step)]

    def _run(self, index: int) -> None:
        lane, probes = self._lanes[index], index == 0
        connected_at: int | None = None  # `_times_lost` then
        parts_done = 0
        while (job := self._next(probes, connected_at)) is not None:
            self._since[index] = time.monotonic()
            try:
                if isinstance(job, Part):
                    lane.do(job)
                    parts_done += 1
                    self._done(job)
                else:
                    lane.disconnect()
                    connected_at, parts_done = None, 0
                    lane.connect()
                    connected_at = job
                    self._heard(job, probes)
            except Exception as error:  # whatever it is: what waits must not wait for ever
                lane.disconnect()
                failed_at, connected_at = connected_at, None
                if not isinstance(job, Part):
                    self._lost(error, job, probes)
                    continue
                was_idle = isinstance(error, ServerLostError) and error.was_closed and parts_done
                if was_idle and self._put_back(job):
                    continue
                self._lost(error, failed_at, probes=False)
                self._done(job)
            finally:
                self._since[index] = None
        lane.disconnect()

    def _next(self, probes: bool, connected_at: int | None) -> Part | int | None:
        """A part; or `_times_lost`, to connect; or None, to end."""
        with self._changed:
            while not self._is_closed:
                if not self._is_well:
                    left_s = self._next_probe - time.monotonic()
                    if probes and left_s <= 0:
                        return self._times_lost
                    self._changed.wait(left_s if probes else None)
                elif not self._reads and not self._writes:
                    self._changed.wait()
                elif connected_at != self._times_lost:
                    return self._times_lost
                else:
                    part = (self._reads or self._writes).popleft()
                    self._under_way.add(part)
                    return part
        return None

    def _watch(self) -> None:
        """Give the server up while a call hangs."""
        now = time.monotonic()
        for index, lane in enumerate(self._lanes):
            since = self._since[index]
            if lane.limit_s is not None and since is not None and now - since > lane.limit_s:
                error = ServerLostError(f"no answer for {lane.limit_s} s")
                self._lost(error, self._times_lost, probes=False)

    def _done(self, part: Part) -> None:
        part.settle_rest(Outcome.FAILED)
        with self._changed:
            self._under_way.discard(part)
            self._changed.notify_all()

    def _put_back(self, part: Part) -> bool:
        """To the front of the queue, what a connection left that had ended."""
        with self._changed:
            if self._is_closed:
                return False
            self._known.clear()  # the server may have been started again, empty
            self._under_way.discard(part)
            (self._writes if part.call is Call.PUT else self._reads).appendleft(part)
            return True

    def _heard(self, times_lost: int, probes: bool) -> None:
        with self._changed:
            if not self._is_well and probes and times_lost == self._times_lost:
                self._is_well = True
                self._changed.notify_all()

    def _lost(self, error: Exception, connected_at: int | None, probes: bool) -> None:
        with self._changed:
            if self._is_closed or connected_at != self._times_lost:
                return  # the connection is older than what was noticed before
            if self._is_well:
                self._is_well = False
                self._since = [None] * self._num_lanes  # they hang for the same reason
                self._times_lost += 1
                self._pause_s = self._options.first_probe_s
            elif probes:
                self._pause_s = min(2 * self._pause_s, self._options.last_probe_s)
            else:
                return
            self._last_error = str(error) or type(error).__name__
            # Many processes lose a server at once; they should not all come back at once.
            self._next_probe = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)
            self._known.clear()
            waiting = [*self._reads, *self._writes]
            self._reads.clear()
            self._writes.clear()
            self._changed.notify_all()
        for part in waiting:
            part.settle_rest(Outcome.FAILED)


_ALL: weakref.WeakSet[Lanes] = weakref.WeakSet()


def _in_a_child() -> None:
    for lanes in list(_ALL):
        lanes.forget()


def _at_exit() -> None:
    """Threads that Python ends while they are in a library may take the process with them."""
    for lanes in list(_ALL):
        lanes.end()
    for lanes in list(_ALL):
        lanes.join(1.0)


os.register_at_fork(after_in_child=_in_a_child)
atexit.register(_at_exit)

"""A thread that follows a cluster."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable

from kvcore.cluster.members import ClusterError, Members
from kvcore.cluster.sources import Source

_log = logging.getLogger("kvcore.cluster")
_LONGEST_REFRESH_S = 3600


class Watcher:
    """Asks a source again and again, and says when something has changed.

    What cannot be told keeps the last that could; so does what `apply` refuses. The first and the
    last failure in a row are logged. Nothing is locked while the source is asked.

    Parameters
    ----------
    source : Source
    apply : bound method
        Of Members; called on the watcher's thread, not after `close`. Its object is not kept: the
        thread ends with it.
    refresh_s : float
        From one question to the next, jittered by a quarter: all nodes of a cluster start at once.
    """

    def __init__(
        self, source: Source, apply: Callable[[Members], None], refresh_s: float = 5.0
    ) -> None:
        if isinstance(refresh_s, bool) or not isinstance(refresh_s, (int, float)):
            raise TypeError(f"refresh_s must be a number, got {type(refresh_s).__name__}")
        if not 0 < refresh_s <= _LONGEST_REFRESH_S:
            raise ValueError(
                f"refresh_s must be above 0 and at most {_LONGEST_REFRESH_S}, got {refresh_s}"
            )
        self._state = _State(source, weakref.WeakMethod(apply))
        self._thread = threading.Thread(
            target=self._state.run, args=(refresh_s,), name="kvcore-cluster", daemon=True
        )

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    @property
    def members(self) -> Members | None:
        """The last that were applied."""
        return self._state.members

    @property
    def error(self) -> Exception | None:
        """Why the last question had no answer that could be used; None where it had."""
        return self._state.error

    def wait_first(self, timeout_s: float) -> bool:
        """Wait until the source was asked once; whether it was."""
        return self._state.asked.wait(timeout_s)

    def close(self) -> None:
        """Stop; more than once does nothing. A question that is under way is not waited for."""
        self._state.stopped.set()
        with self._state.applying:  # whatever is applied now is applied then
            pass


class _State:
    """What the thread has: not the watcher, which may go."""

    def __init__(self, source: Source, apply: weakref.WeakMethod[Callable[[Members], None]]):
        self.asked, self.stopped = threading.Event(), threading.Event()
        self.applying = threading.Lock()
        self.members: Members | None = None
        self.error: Exception | None = None
        self._source, self._apply = source, apply

    def run(self, refresh_s: float) -> None:
        jitter = random.Random()
        while not self.stopped.is_set() and self._apply() is not None:
            self._refresh()
            self.asked.set()
            self.stopped.wait(refresh_s * jitter.uniform(0.75, 1.25))

    def _refresh(self) -> None:
        try:
            members = self._source.read()
            if members != self.members:
                self._hand_over(members)
        except (ClusterError, OSError, ValueError) as error:
            if self.error is None:
                _log.warning("the servers stay as they are: %s", error)
            self.error = error
        else:
            if self.error is not None:
                _log.warning("the servers are known again, %d of them", len(members.servers))
            self.error = None

    def _hand_over(self, members: Members) -> None:
        with self.applying:
            apply = self._apply()
            if apply is None or self.stopped.is_set():
                return
            apply(members)
            self.members = members

"""A TCP proxy that makes the way to a server slow, silent or short."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

from support.ports import Port

_PART_BYTES = 256 << 10
_QUEUED_PARTS = 256  # at most 64 MB under way
_SILENCE_S = 0.3
_Timed = tuple[float, "bytes | None"]  # when it came; none is a reset


class Proxy:
    """Forwards connections to `server`; each knob may be turned at any time.

    What one side does the other sees: a close as a close, a reset as a reset.

    Attributes
    ----------
    address : tuple of str and int
        Where clients connect; the same for its whole life.
    delay_ms : float
        Added each way.
    cut_to_server_after, cut_to_client_after : int, optional
        A connection ends, both ways, when it has carried exactly as many bytes in that direction;
        0 ends it at the first byte.
    cuts_harm_server : bool
        A reset while the server has a request kills the real one. So the server's side of a
        connection that is cut here is closed when nothing more comes from it; where this is true,
        it is reset like the client's.
    num_connections : int
        Accepted so far.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.delay_ms = 0.0
        self.cut_to_server_after: int | None = None
        self.cut_to_client_after: int | None = None
        self.cuts_harm_server = False
        self.num_connections = 0
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._port = Port()
        self.address = ("127.0.0.1", self._port.number)
        self._listener: socket.socket | None = None
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def freeze(self) -> None:
        """Carry nothing further; connections stay, and new ones are accepted."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def refuse(self) -> None:
        """Refuse new connections; those that there are stay."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            listener.close()

    def accept(self) -> None:
        """Accept new connections (again)."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = listener = socket.create_server(self.address, backlog=128)
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def drop(self) -> None:
        """Cut every connection that there is; the client sees a reset."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def close(self) -> None:
        self.refuse()
        self.drop()
        self.thaw()
        self._port.release()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server, 5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self.num_connections += 1
                self._links.add(link)
            link.start()


class _Link:
    """A connection and the threads that carry it: one reads and one writes, each way."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._ended = threading.Event()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for source, target in ((self._client, self._server), (self._server, self._client)):
            parts: queue.Queue[_Timed] = queue.Queue(_QUEUED_PARTS)
            for work, end in ((self._read, source), (self._write, target)):
                threading.Thread(target=work, args=(end, parts), daemon=True).start()

    def cut(self) -> None:
        """End it from here."""
        if not self._end():
            return
        _reset(self._client)
        if self._proxy.cuts_harm_server:
            _reset(self._server)
        else:
            threading.Thread(target=self._drain_server, daemon=True).start()

    def _end(self) -> bool:
        """Returns whether it had not ended before."""
        with self._proxy._lock:
            if self._ended.is_set():
                return False
            self._ended.set()
            self._proxy._links.discard(self)
            return True

    def _reset(self) -> None:
        """One side was reset, so the other is."""
        if self._end():
            _reset(self._client)
            _reset(self._server)

    def _drain_server(self) -> None:
        """Read away what it is sending, then close."""
        with suppress(OSError):
            self._server.settimeout(_SILENCE_S)
            while self._server.recv(_PART_BYTES):
                pass
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
        self._server.close()

    def _read(self, source: socket.socket, parts: queue.Queue[_Timed]) -> None:
        part: bytes | None = b"-"
        while part and not self._ended.is_set():
            try:
                # Else the server waits for an acknowledgement that its client may have sent.
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                part = source.recv(_PART_BYTES)
            except OSError:
                part = None
            while not self._ended.is_set():
                with suppress(queue.Full):
                    parts.put((time.monotonic(), part), timeout=0.5)
                    break

    def _write(self, target: socket.socket, parts: queue.Queue[_Timed]) -> None:
        sent_bytes = 0
        while not self._ended.is_set():
            try:
                since, part = parts.get(timeout=0.5)
            except queue.Empty:
                continue
            wait_s = since + self._proxy.delay_ms / 1000 - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            while not self._proxy._flows.wait(0.5) and not self._ended.is_set():
                pass
            if part is None:
                self._reset()
            elif not part:
                with suppress(OSError):
                    target.shutdown(socket.SHUT_WR)  # the other direction may go on
                return
            else:
                self._carry(target, part, sent_bytes)
                sent_bytes += len(part)

    def _carry(self, target: socket.socket, part: bytes, sent_bytes: int) -> None:
        to_server = target is self._server
        cut = self._proxy.cut_to_server_after if to_server else self._proxy.cut_to_client_after
        cuts = cut is not None and sent_bytes + len(part) >= cut
        try:
            target.sendall(part[: max((cut or 0) - sent_bytes, 0)] if cuts else part)
        except OSError:
            self._reset()
            return
        if cuts:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
            time.sleep(0.02)  # a reset discards what has not arrived
            self.cut()


def _reset(side: socket.socket) -> None:
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        side.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
    side.close()

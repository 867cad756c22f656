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


class Proxy:
    """Forwards connections to `server`; each knob may be turned at any time.

    Attributes
    ----------
    address : tuple of str and int
        Where clients connect; the same for its whole life.
    delay_ms : float
        Added each way.
    cut_to_server_after, cut_to_client_after : int, optional
        A connection ends, both ways, when it has carried exactly as many bytes in that direction;
        0 ends it at the first byte.
    num_connections : int
        Accepted so far.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.delay_ms = 0.0
        self.cut_to_server_after: int | None = None
        self.cut_to_client_after: int | None = None
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
        """End every connection that there is; the client sees a reset."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.end()

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
            parts: queue.Queue[tuple[float, bytes]] = queue.Queue(_QUEUED_PARTS)
            for work, end in ((self._read, source), (self._write, target)):
                threading.Thread(target=work, args=(end, parts), daemon=True).start()

    def end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        with self._proxy._lock:
            self._proxy._links.discard(self)
        for side in (self._client, self._server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            _reset(side)

    def _read(self, source: socket.socket, parts: queue.Queue[tuple[float, bytes]]) -> None:
        part = b"-"
        while part and not self._ended.is_set():
            try:
                part = source.recv(_PART_BYTES)
            except OSError:
                part = b""
            while not self._ended.is_set():
                with suppress(queue.Full):
                    parts.put((time.monotonic(), part), timeout=0.5)
                    break

    def _write(self, target: socket.socket, parts: queue.Queue[tuple[float, bytes]]) -> None:
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
            if not part:
                with suppress(OSError):
                    target.shutdown(socket.SHUT_WR)  # the other direction may go on
                return
            cut = (
                self._proxy.cut_to_server_after
                if target is self._server
                else self._proxy.cut_to_client_after
            )
            whole = cut is None or sent_bytes + len(part) < cut
            try:
                target.sendall(part if whole else part[: max((cut or 0) - sent_bytes, 0)])
            except OSError:
                whole = False
            sent_bytes += len(part)
            if not whole:
                self._end_after_arrival(target)
                return

    def _end_after_arrival(self, target: socket.socket) -> None:
        """End it when the last bytes are with the other side's system: a reset discards them."""
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
            time.sleep(0.02)
        self.end()


def _reset(side: socket.socket) -> None:
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()

"""The other end of a line over RDMA: a process with InfiniStore's own client, for one connection.

kvcore starts it (`csrc/store/remote/process_line.h` says why it is one), by its path and with any
Python that has ``infinistore``, so it imports nothing of kvcore. It is asked on descriptor 3, one
thing at a time; keys and values are in the memory of descriptor 4. It ends when nobody can ask any
more, and when it does not know how the connection is: whoever asked sees that at once.
"""

import ctypes
import mmap
import os
import queue
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_SOCKET, _MEMORY = 3, 4
_CONNECT_S = 5.0
# What is said on the socket, and what is asked there; see process_line.cpp.
_DONE, _MISS, _FULL, _REFUSED, _READY = range(5)
_GET, _PUT, _CONTAINS, _MATCH, _REMOVE = range(5)
_QUESTION, _ANSWER = struct.Struct("=IIII"), struct.Struct("=II")
# What servers answer.
_OK, _NOT_FOUND, _NO_ROOM = 200, 404, 507


def end_with(parent: int) -> None:
    """Ends this process with the one that started it, however that ends, and whatever hangs."""
    prctl_set_death_signal = 1
    ctypes.CDLL(None).prctl(prctl_set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def close_what_is_not_ours() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > _MEMORY:
            with suppress(OSError):
                os.close(int(name))


def connect(host: str, port: int, device: str, ib_port: int, link: str) -> Any:
    """An `infinistore.InfinityConnection` that is connected."""
    # Without a server, all that comes next would be for nothing.
    socket.create_connection((host, port), _CONNECT_S).close()
    import infinistore

    config = infinistore.ClientConfig(
        host_addr=host,
        service_port=port,
        connection_type=infinistore.TYPE_RDMA,
        dev_name=device,
        ib_port=ib_port,
        link_type=link,
        log_level="error",
    )
    client = infinistore.InfinityConnection(config)
    client.connect()
    return client


def socket_to(host: str, port: int) -> int:
    """The client's own socket: it does not tell when its connection has ended, but that does."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.getpeername() == (host, port):
                        return int(name)
    raise OSError("the client has no socket to its server")


class Line:
    """Does what is asked for, in memory that the client has registered."""

    def __init__(self, client: Any, memory: mmap.mmap) -> None:
        self._client = client
        self._memory = memory
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        # Values begin where this does: an operation elsewhere would hang, and all after it.
        client.register_mr(self._address, len(memory))

    def do(self, kind: int, keys: list[str], value_bytes: int) -> tuple[int, int]:
        """The code and the number that are the answer."""
        client = self._client
        if kind == _GET:
            # For a key that it has not, the server loses some bytes and writes a line to its log.
            if not client.check_exist(keys[0]):
                return _MISS, 0
            code = self._move(client.conn.r_rdma_async, keys, value_bytes)
            return {_OK: _DONE, _NOT_FOUND: _MISS}.get(code, _REFUSED), 0
        if kind == _PUT:
            code = self._move(client.conn.w_rdma_async, keys, value_bytes)
            return {_OK: _DONE, _NO_ROOM: _FULL}.get(code, _REFUSED), 0
        if kind == _CONTAINS:
            return _DONE, int(client.check_exist(keys[0]))
        if kind == _REMOVE:
            return _DONE, client.delete_keys(keys)
        try:
            return _DONE, client.get_match_last_index(keys) + 1
        except Exception:  # none of them is there, or the connection has ended
            client.check_exist(keys[0])
            return _DONE, 0

    def _move(self, operation: Callable[..., int], keys: list[str], value_bytes: int) -> int:
        """One key, as the server loses memory over keys that are there beside one that is not.

        Without the client's asyncio, which takes as long again as a small value does.
        """
        if operation(keys, [0], value_bytes, self._address, self._codes.put) < 0:
            raise OSError("the client could not begin")
        return self._codes.get()

    def serve(self, asks: socket.socket, client_socket: int) -> None:
        """Answers until somebody has gone."""
        poll = select.poll()
        poll.register(asks, select.POLLIN)
        poll.register(client_socket, select.POLLIN)
        while True:
            if any(fd == client_socket for fd, _ in poll.poll()):
                return
            asked = asks.recv(_QUESTION.size)
            if not asked:
                return
            kind, keys_at, keys_bytes, value_bytes = _QUESTION.unpack(asked)
            keys = self._memory[keys_at : keys_at + keys_bytes].decode().split("\n")
            asks.send(_ANSWER.pack(*self.do(kind, keys, value_bytes)))


def main() -> None:
    device, ib_port, link, parent, host, port = sys.argv[1:]
    del sys.path[0]  # there, modules of kvcore have names of others'
    end_with(int(parent))
    close_what_is_not_ours()
    try:
        client = connect(host, int(port), device, int(ib_port), link)
    except OSError:
        return
    except Exception as error:
        print(f"kvcore: no RDMA to {host}:{port}: {error}", file=sys.stderr)
        return
    line = Line(client, mmap.mmap(_MEMORY, 0))
    client_socket = socket_to(host, int(port))
    with suppress(BrokenPipeError):
        asks = socket.socket(fileno=_SOCKET)
        asks.send(_ANSWER.pack(_READY, 0))
        line.serve(asks, client_socket)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"kvcore: a line over RDMA has ended: {error}", file=sys.stderr)
    finally:
        os._exit(0)  # the client's threads wait for one another

"""InfiniStore's own client, as AIBrix drives it, for `kvcore bench store`.

Connections in threads, one question and one read for each block, copied to its place. A script of
its own process, since a read that fails ends it and importing it takes the threads of numpy away;
it needs infinistore and numpy, and nothing of kvcore. Reads lines, and answers each with one that
begins with "= ", as the client prints lines too::

    put|get|get_one_by_one|clear|check BLOCK_BYTES NUM_BLOCKS PREFIX

The client's own copies of the blocks stay from line to line: `clear` before a get, `check` after.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import infinistore  # in that process alone
import numpy as np


def main(host: str, port: int, num_connections: int) -> None:
    connections = [_connect(host, port) for _ in range(num_connections)]
    print("= ready", flush=True)
    slabs: dict[tuple[int, int], tuple[Any, Any]] = {}
    for line in sys.stdin:
        what, *numbers, prefix = line.split()
        block_bytes, num_blocks = map(int, numbers)
        shape = num_blocks, block_bytes
        if shape not in slabs:
            source = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            slabs[shape] = source, source.copy()
        source, destination = slabs[shape]
        if what == "put":
            _in_threads(connections, num_blocks, partial(_put, source, prefix))
            print("= done", flush=True)
        elif what == "get":
            _in_threads(connections, num_blocks, partial(_get, destination, prefix))
            print("= done", flush=True)
        elif what == "get_one_by_one":
            act = partial(_get, destination, prefix, connections[0])
            print("=", median(_timed(partial(act, i)) for i in range(num_blocks)), flush=True)
        elif what == "clear":
            destination[:] = 0
            print("= done", flush=True)
        elif what == "check":
            print("=", np.array_equal(destination, source), flush=True)


def _connect(host: str, port: int) -> Any:
    config = infinistore.ClientConfig(
        host_addr=host,
        service_port=port,
        connection_type=infinistore.TYPE_TCP,
        log_level="error",
    )
    connection = infinistore.InfinityConnection(config)
    connection.connect()
    return connection


def _put(blocks: Any, prefix: str, connection: Any, i: int) -> None:
    connection.tcp_write_cache(f"{prefix}{i}", blocks[i].ctypes.data, blocks[i].nbytes)


def _get(blocks: Any, prefix: str, connection: Any, i: int) -> None:
    if connection.check_exist(f"{prefix}{i}"):
        blocks[i] = connection.tcp_read_cache(f"{prefix}{i}")


def _timed(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _in_threads(connections: list[Any], num_blocks: int, act: Callable[[Any, int], None]) -> None:
    def work(number: int) -> None:
        for i in range(number, num_blocks, len(connections)):
            act(connections[number], i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

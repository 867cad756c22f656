"""RedisStore and servers that are slow, dead or gone, and its own end: nothing waits for ever."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from models.processes import PYTHON
from support.batches import WAIT_S, chain, outcomes
from support.redis_node import BLOCK_BYTES, DONE, FAILED, MISS, RedisNode, Start
from support.redis_server import RedisServer

from kvcore.stores import Outcome, RedisStore
from kvcore.verify import payload

# --- Slow and dead servers -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_frozen_server_costs_its_time_once(
    start_redis: Start, new_redis_node: Callable[..., RedisNode], kind: str
) -> None:
    server = start_redis(kind)
    node = new_redis_node(server, stall_s=0.3)
    hashes = chain(500)
    node.put(hashes)
    server.freeze()
    began = time.monotonic()
    for i in range(500):
        assert node.get(hashes[i : i + 1]) == [FAILED]
        assert node.put(hashes[i : i + 1]) == [FAILED]
    assert 0.25 < time.monotonic() - began < 2.5  # not 300 s
    assert node.store.match(hashes) == 0
    assert (
        "timed out" in str(node.store.last_error).lower()
        or "timeout" in str(node.store.last_error).lower()
    )
    server.thaw()
    node.wait_until_well()
    assert node.get(hashes) == [DONE] * 500


def test_a_dead_server_costs_nothing(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    server.kill()
    node = new_redis_node(server)
    hashes = chain(1000)
    began = time.monotonic()
    for i in range(1000):
        assert node.get(hashes[i : i + 1]) == [FAILED]
    assert time.monotonic() - began < 2
    assert node.store.stats().failed == 1000
    server.start()
    node.wait_until_well()
    assert node.put(hashes[:100]) == [DONE] * 100


def test_outcomes_keep_their_deadline(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server, stall_s=20.0, value_bytes=256 << 10)
    hashes = chain(200)
    assert node.put(hashes) == [DONE] * 200
    server.freeze()
    slab = np.zeros((200, 256 << 10), np.uint8)
    began = time.monotonic()
    batches = [
        node.store.get_into(hashes, slab, np.arange(200), 0.2),
        node.store.put_from(chain(100), slab, np.arange(100), 0.2),
        node.store.contains(hashes, 0.2),
        node.store.remove(hashes, 0.2),
    ]
    assert time.monotonic() - began < 1.0
    for batch in batches:
        assert set(outcomes(batch)) == {Outcome.TIMED_OUT}
    assert time.monotonic() - began < 2.0
    assert not batches[0].is_quiet()
    # Closing does not wait for the server either, and takes the memory back.
    node.store.close()
    assert time.monotonic() - began < 4.0
    assert all(batch.is_quiet() for batch in batches)


def test_a_server_freezes_in_the_middle(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server, stall_s=0.2, value_bytes=256 << 10)
    hashes = chain(300)
    assert node.put(hashes) == [DONE] * 300
    expected = payload(hashes, 256 << 10)
    for pause_s in (0.005, 0.02, 0.04):
        node.wait_until_well()
        node.slab[:] = 0xA5
        timer = threading.Timer(pause_s, server.freeze)
        timer.start()
        began = time.monotonic()
        came = outcomes(node.store.get_into(hashes, node.slab, np.arange(300), 2.0))
        assert time.monotonic() - began < 1.0
        timer.join()
        assert set(came) <= {DONE, FAILED}
        for i, outcome in enumerate(came):
            assert outcome != DONE or np.array_equal(node.slab[i], expected[i])
        server.thaw()
    node.wait_until_well()
    assert node.get(hashes) == [DONE] * 300


def test_a_server_is_killed_and_comes_back_empty(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server)
    hashes = chain(300)
    node.put(hashes)
    seen = []
    for i in range(300):
        if i == 100:
            server.kill()
        if i == 200:
            server.start()
            node.wait_until_well()
        seen += node.get(hashes[i : i + 1])
    assert seen == [DONE] * 100 + [FAILED] * 100 + [MISS] * 100
    assert node.store.match(hashes) == 0
    assert node.put(hashes) == [DONE] * 300
    assert node.get(hashes) == [DONE] * 300


def test_a_restart_between_two_calls_is_not_noticed(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server)
    hashes = chain(40)
    node.put(hashes)
    server.kill()
    server.start()
    assert node.get(hashes) == [MISS] * 40
    assert node.store.match(hashes) == 0
    assert node.put(hashes) == [DONE] * 40
    with server.client() as client:  # as servers end idle connections
        for _ in range(3):
            client.client_kill_filter(_type="normal", skipme=True)
            assert node.get(hashes) == [DONE] * 40
    assert node.store.stats().failed == 0


def test_reads_while_a_server_comes_and_goes(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server, stall_s=0.2, value_bytes=64 << 10)
    hashes = chain(64)
    stop = threading.Event()
    seen: set[Outcome] = set()

    def live() -> None:
        own = RedisNode(server.url, node.fingerprint, value_bytes=64 << 10, stall_s=0.2)
        while not stop.is_set():
            seen.update(own.get(hashes, timeout_s=1.0))
            own.put(hashes, timeout_s=1.0)
        own.store.close()
        assert own.store.stats().corrupt == 0

    threads = [threading.Thread(target=live) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.3)
        server.kill()
        time.sleep(0.1)
        server.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert {DONE, MISS, FAILED} <= seen <= {DONE, MISS, FAILED, Outcome.TIMED_OUT}
    node.wait_until_well()
    node.put(hashes)
    assert node.get(hashes) == [DONE] * 64


def test_writes_that_wait_are_bounded(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis()
    node = new_redis_node(server, stall_s=20.0, max_queued_bytes=100 * BLOCK_BYTES)
    node.put(chain(1))
    server.freeze()
    first = node.store.put_from(chain(80), node.slab, np.arange(80), WAIT_S)
    second = node.store.put_from(chain(80), node.slab, np.arange(80), WAIT_S)
    third = node.store.put_from(chain(80), node.slab, np.arange(80), WAIT_S)
    assert first.outcomes.tolist() == [Outcome.PENDING] * 80
    assert second.outcomes.tolist() == [Outcome.PENDING] * 20 + [MISS] * 60
    assert third.outcomes.tolist() == [MISS] * 80
    assert third.is_quiet()
    server.thaw()
    assert outcomes(first) == [DONE] * 80
    assert outcomes(second) == [DONE] * 20 + [MISS] * 60
    assert node.put(chain(100)) == [DONE] * 100  # there is room again


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"$-7x\r\n", b"*9\r\n"]
)
def test_a_server_of_something_else_is_given_up(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        node = RedisNode(f"redis://127.0.0.1:{listener.getsockname()[1]}", bytes(16), stall_s=0.3)
        assert node.get(chain(3)) == [FAILED] * 3
        assert node.store.last_error
        node.store.close()


# --- Ends ----------------------------------------------------------------------------------------


def test_a_dropped_store_ends_its_threads(redis: RedisServer) -> None:
    before = threading.active_count()
    store = RedisStore(redis.url, os.urandom(16), 100, connections=3)
    outcomes(store.contains(chain(3), WAIT_S))
    assert threading.active_count() == before + 3
    del store
    gc.collect()
    until = time.monotonic() + WAIT_S
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_process_ends_in_the_middle(start_redis: Start, is_frozen: bool) -> None:
    server = start_redis()
    code = f"""
import os, time
import numpy as np
from kvcore.stores import RedisStore
store = RedisStore({server.url!r}, bytes(16), 1 << 20, stall_s=20)
hashes = np.frombuffer(os.urandom(16 * 60), np.uint8).reshape(-1, 16).copy()
slab = np.zeros((60, 1 << 20), np.uint8)
store.contains(hashes, None).wait()
print("up", flush=True)
input()
store.put_from(hashes, slab, np.arange(60), None)
store.get_into(hashes, slab, np.arange(60), None)
time.sleep(0.02)
"""
    process = subprocess.Popen(
        [*PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    if is_frozen:
        server.freeze()
    process.communicate("\n", timeout=10)
    assert process.returncode == 0


def test_a_forked_child_ends_and_holds_nothing(redis: RedisServer) -> None:
    code = f"""
import os
import numpy as np
from kvcore.stores import RedisStore
store = RedisStore({redis.url!r}, os.urandom(16), 100, stall_s=20)
hashes = np.zeros((1, 16), np.uint8)
slab = np.zeros((1, 100), np.uint8)
store.put_from(hashes, slab, [0], None).wait()
if os.fork() == 0:
    batch = store.get_into(hashes, slab, [0], None)
    batch.wait()
    assert batch.outcomes.tolist() == [2] and batch.is_quiet()
    assert store.match(hashes) == 0 and store.last_error is None
    store.close()
    del store
    os._exit(0)
assert os.wait()[1] == 0
batch = store.get_into(hashes, slab, [0], None)
batch.wait()
assert batch.outcomes.tolist() == [1]
store.close()
"""
    subprocess.run([*PYTHON, "-W", "ignore", "-c", code], check=True, timeout=60)

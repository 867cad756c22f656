"""What the real InfiniStore server does to a client, and what a client may do to it.

None of this is about kvcore: these are the facts that its driver is built on. Where a test fails
with another release of the server, look at what the driver does about it.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from models.processes import PYTHON
from support import wire
from support.infinistore import InfiniStoreServer, Installation
from support.wire import Connection

StartServer = Callable[..., InfiniStoreServer]

VALUE = bytes(range(256)) * 256  # 64 KiB
MORE_THAN_IT_HAS = (1 << 30) + 1
MORE_THAN_BUFFERED = 64 << 20  # than both sides' systems take before somebody reads


def is_dead(server: InfiniStoreServer) -> bool:
    """Dead, or as good as: its crash handler may deadlock, then it accepts and answers nobody."""
    return server.wait_until_dead(1) or not server.answers(1)


# What it does when it is asked politely.


def test_it_listens_on_loopback_alone_here(infinistore: InfiniStoreServer) -> None:
    listening = set()
    for line in Path(f"/proc/{infinistore.pid}/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A":
            host, port = address.split(":")
            listening.add((host, int(port, 16)))
    assert ("0100007F", infinistore.port) in listening
    assert ("0100007F", infinistore.manage_port) in listening
    assert ("00000000", infinistore.port) not in listening


@pytest.mark.parametrize("num_bytes", [1, 511, 512, 65_482, 65_483, 65_536, 1 << 20, 5 << 20])
def test_a_value_comes_back(infinistore: InfiniStoreServer, num_bytes: int) -> None:
    value = (VALUE * (num_bytes // len(VALUE) + 1))[:num_bytes]
    key = b"value-of-%d" % num_bytes
    with Connection(infinistore.address) as client:
        assert client.put(key, value) == wire.OK
        assert client.get(key) == value


def test_overwriting_replaces_the_value(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        assert client.put(b"overwritten", b"first") == wire.OK
        assert client.put(b"overwritten", b"the second") == wire.OK
        assert client.get(b"overwritten") == b"the second"


def test_exists_and_delete(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        client.put(b"deleted", VALUE)
        assert client.exists(b"deleted")
        assert client.delete([b"deleted", b"never there"]) == 1
        assert not client.exists(b"deleted")
        assert client.get(b"deleted") is None
        assert client.delete([b"deleted"]) == 0


def test_a_miss_is_four_bytes(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address, timeout_s=0.3) as client:
        client.send(wire.get_request(b"never there"))
        assert client.receive_code() == wire.MISSING
        with pytest.raises(TimeoutError):  # who waits for a size waits for ever
            client.receive(1)
        assert not client.exists(b"never there")  # the connection is as before


def test_a_match_is_a_binary_search(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        for key in (b"p0", b"p1"):
            client.put(key, b"-")
        assert client.match([b"p0", b"p1", b"no", b"no"]) == 1
        assert client.match([b"no", b"p0", b"p1"]) == 2  # though the first is missing
        assert client.match([b"no"]) == -1


def test_keys_with_nul_are_whole_on_the_wire(infinistore: InfiniStoreServer) -> None:
    """It is the official client that ends them there: both could not share such a key."""
    with Connection(infinistore.address) as client:
        client.put(b"nul\0one", b"value")
        assert client.exists(b"nul\0one")
        assert not client.exists(b"nul")
        assert client.get(b"nul\0one") == b"value"
        assert client.get(b"nul\0two") is None


def test_an_empty_key_exists_for_ever(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address, timeout_s=0.3) as client, pytest.raises(TimeoutError):
        client.exists(b"")
    assert infinistore.answers()


def test_a_wrong_magic_ends_the_connection_alone(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionError):
            client.receive(1)
    assert infinistore.answers()


def test_an_unknown_operation_is_refused(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        client.send(wire.frame(b"?", b"body"))
        assert client.receive_code() == wire.INVALID


def test_an_empty_put_is_acknowledged_with_the_next_request(
    infinistore: InfiniStoreServer,
) -> None:
    with Connection(infinistore.address, timeout_s=0.3) as client:
        with pytest.raises(TimeoutError):
            client.put(b"empty", b"")
        client.send(wire.exists_request(b"empty"))
        assert client.receive_code() == wire.OK  # of the put
        assert client.receive_number() == 0


@pytest.mark.parametrize("num_bytes", [512, 16 << 10])
def test_small_values_need_quick_acknowledgements(
    infinistore: InfiniStoreServer, num_bytes: int
) -> None:
    """Header and value are sent apart, the value only when the header was acknowledged."""
    key = b"small-%d" % num_bytes
    medians_ms = {}
    for quick_ack in (True, False):
        with Connection(infinistore.address, quick_ack=quick_ack) as client:
            client.put(key, VALUE[:num_bytes])
            times = []
            for _ in range(12):
                start = time.perf_counter()
                client.get(key)
                times.append(time.perf_counter() - start)
        medians_ms[quick_ack] = 1000 * statistics.median(times)
    assert medians_ms[False] > 30
    assert medians_ms[True] < 15


# Memory.


def test_an_over_full_put_is_answered_before_its_value(infinistore: InfiniStoreServer) -> None:
    """The server does not read the value away: what is sent of it is taken for a header."""
    with Connection(infinistore.address) as client:
        client.send(wire.put_request(b"too large", MORE_THAN_IT_HAS))
        assert client.receive_code() == wire.OUT_OF_MEMORY
        assert not client.exists(b"too large")
        client.send(wire.put_request(b"too large", MORE_THAN_IT_HAS) + VALUE)
        assert client.receive_code() == wire.OUT_OF_MEMORY
        with pytest.raises(ConnectionError):
            client.receive(1)
    assert infinistore.answers()


def test_memory_is_made_by_evicting_the_oldest(start_infinistore: StartServer) -> None:
    value = bytes(8 << 20)
    keys = [b"%d" % i for i in range(140)]
    with Connection(start_infinistore().address) as client:
        for key in keys:
            assert client.put(key, value) == wire.OK
        there = [client.exists(key) for key in keys]
        assert there == sorted(there)  # what is gone is the oldest
        assert 80 <= sum(there) <= 122  # of 128: from 95 % down to 80 %
        assert client.get(keys[0]) is None


def test_a_purge_frees_no_memory_and_takes_later_keys_with_it(
    start_infinistore: StartServer,
) -> None:
    value = bytes(8 << 20)
    keys = [b"%d" % i for i in range(75)]
    server = start_infinistore()
    with Connection(server.address) as client:
        for key in keys:
            assert client.put(key, value) == wire.OK
        assert server.purge() == len(keys)
        assert server.kvmap_len() == 0
        for key in keys:
            assert client.put(key, value) == wire.OK
        # 600 MB of 1 GB, but the purged values were evicted, by their names.
        assert sum(client.exists(key) for key in keys) < len(keys)


# What kills it, though each is an ordinary client at an unlucky moment.


@pytest.mark.parametrize("writer", ["alive", "gone"])
@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize("operation", ["get", "delete"])
def test_touching_a_half_written_key_kills_it(
    start_infinistore: StartServer, writer: str, overwrites: bool, operation: str
) -> None:
    server = start_infinistore()
    with Connection(server.address, timeout_s=1) as reader:
        if overwrites:
            assert reader.put(b"k", VALUE) == wire.OK
        with Connection(server.address) as put:
            put.put_part(b"k", VALUE[:1000], len(VALUE))
            wait_until_it_exists(reader, b"k")
            if writer == "gone":
                put.socket.close()
                time.sleep(0.05)
            with suppress(OSError):
                for _ in range(1000):  # the first may be in front of the put
                    reader.get(b"k") if operation == "get" else reader.delete([b"k"])
            assert is_dead(server)


def wait_until_it_exists(client: Connection, key: bytes) -> None:
    """It says so before the value is there."""
    end = time.monotonic() + 5
    while not client.exists(key):
        assert time.monotonic() < end


def test_a_key_that_was_half_written_is_well_when_it_is_whole(
    infinistore: InfiniStoreServer,
) -> None:
    with Connection(infinistore.address) as client, Connection(infinistore.address) as put:
        put.put_part(b"in two parts", VALUE[:1000], len(VALUE))
        wait_until_it_exists(client, b"in two parts")
        assert client.match([b"in two parts"]) == 0  # neither of these harms it
        put.send(VALUE[1000:])
        assert put.receive_code() == wire.OK
        assert client.get(b"in two parts") == VALUE


def test_two_gets_at_once_on_a_connection_eat_its_memory(start_infinistore: StartServer) -> None:
    server = start_infinistore(memory_limit_bytes=1700 << 20)
    with Connection(server.address, timeout_s=1) as client:
        client.put(b"k", VALUE)
        before = server.resident_bytes()
        client.send(2 * wire.get_request(b"k"))
        end = time.monotonic() + 20
        while server.is_alive() and server.resident_bytes() < before + (64 << 20):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not server.answers(0.5)
        server.kill()


@pytest.mark.parametrize(
    "how", ["closed", "reset", "half closed"], ids=lambda how: how.replace(" ", "-")
)
def test_leaving_while_a_value_is_sent_kills_it(start_infinistore: StartServer, how: str) -> None:
    """It closes the connection once for the end of what it reads and once for what it cannot send.

    So a client that gives up a GET must read it to its end, or leave only when all of it is on its
    way: what the systems of both sides have taken is harmless.
    """
    server = start_infinistore()
    with Connection(server.address) as client:
        client.put(b"k", bytes(MORE_THAN_BUFFERED))
        client.send(wire.get_request(b"k"))
        client.receive(8)
        time.sleep(0.1)  # until it waits for room
        if how == "closed":
            client.socket.close()
        elif how == "reset":
            client.reset()
        else:
            client.socket.shutdown(socket.SHUT_WR)
        assert is_dead(server)


REQUESTS = {
    "get": wire.get_request(b"k"),
    "miss": wire.get_request(b"never there"),
    "put": wire.put_request(b"k", len(VALUE)) + VALUE,
    "exists": wire.exists_request(b"k"),
    "match": wire.match_request([b"k", b"never there"]),
    "delete": wire.delete_request([b"never there"]),
}


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_reset_in_front_of_an_answer_kills_it(
    start_infinistore: StartServer, operation: str
) -> None:
    """Of any operation and any size. The system resets who closes with bytes unread, too."""
    server = start_infinistore()
    with Connection(server.address) as client:
        client.put(b"k", VALUE)
    with suppress(OSError):
        for _ in range(50):
            with Connection(server.address) as leaving:
                server.freeze()
                leaving.send(REQUESTS[operation])
                leaving.reset()
            server.thaw()
            time.sleep(0.01)
    assert is_dead(server)


@pytest.mark.parametrize("operation", [name for name in REQUESTS if name != "get"])
def test_closing_in_front_of_an_answer_does_no_harm(
    infinistore: InfiniStoreServer, operation: str
) -> None:
    for _ in range(20):
        with Connection(infinistore.address) as leaving:
            leaving.send(REQUESTS[operation])
    assert infinistore.answers()


@pytest.mark.parametrize("num_bytes", [512, 64 << 10])
def test_closing_in_front_of_a_small_value_does_no_harm(
    start_infinistore: StartServer, num_bytes: int
) -> None:
    server = start_infinistore()
    with Connection(server.address) as client:
        client.put(b"k", VALUE[:num_bytes])
        for freezes in (False, True):
            for _ in range(10):
                leaving = Connection(server.address)
                if freezes:
                    server.freeze()
                leaving.send(wire.get_request(b"k"))
                leaving.socket.close()
                server.thaw()
                assert client.get(b"k") == VALUE[:num_bytes]


@pytest.mark.parametrize("operation", [b"L", b"M", b"X"])
def test_a_bad_flatbuffer_kills_it(start_infinistore: StartServer, operation: bytes) -> None:
    server = start_infinistore()
    with Connection(server.address, timeout_s=1) as client:
        client.send(wire.frame(operation, b"\xff" * 64))
        assert is_dead(server)


def test_an_empty_body_on_a_used_connection_kills_it(start_infinistore: StartServer) -> None:
    server = start_infinistore()
    with Connection(server.address, timeout_s=1) as client:
        client.exists(b"k")
        client.send(wire.frame(b"C", b"") + bytes(9))
        assert is_dead(server)


# The official client, in a process of its own.

OFFICIAL_CLIENT = """
import asyncio, sys
import numpy as np
import infinistore

def connect(kind):
    config = infinistore.ClientConfig(
        host_addr="127.0.0.1", service_port=int(sys.argv[1]), log_level="error",
        connection_type=kind, link_type=infinistore.LINK_ETHERNET, dev_name="any", ib_port=1)
    connection = infinistore.InfinityConnection(config)
    connection.connect()
    return connection

"""


def run_official_client(server: InfiniStoreServer, code: str, environment: dict[str, str]) -> None:
    python = server.installation.venv / "bin" / "python"
    done = subprocess.run(
        [python, "-c", OFFICIAL_CLIENT + code, str(server.port)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_client_over_rdma_works_with_the_emulated_card(infinistore: InfiniStoreServer) -> None:
    code = """
source, target = np.random.bytes(1 << 20), np.zeros(1 << 20, np.uint8)
source = np.frombuffer(source, np.uint8).copy()
blocks = [(f"rdma-{i}", i * 65536) for i in range(16)]
for _ in range(2):  # a second connection finds the server well
    connection = connect(infinistore.TYPE_RDMA)
    for array in (source, target):
        connection.register_mr(array.ctypes.data, array.nbytes)
    target[:] = 0
    asyncio.run(connection.rdma_write_cache_async(blocks, 65536, source.ctypes.data))
    asyncio.run(connection.rdma_read_cache_async(blocks, 65536, target.ctypes.data))
    assert (source == target).all()
    try:
        asyncio.run(connection.rdma_read_cache_async([("none", 0)], 65536, target.ctypes.data))
    except infinistore.InfiniStoreKeyNotFound:
        pass
    else:
        raise AssertionError("found what is not there")
    connection.close()
"""
    run_official_client(infinistore, code, infinistore.installation.environment())
    with Connection(infinistore.address) as client:
        value = client.get(b"rdma-3")
        assert value is not None
        assert len(value) == 65536


def test_keys_of_the_official_client_stop_at_nul(infinistore: InfiniStoreServer) -> None:
    code = """
connection = connect(infinistore.TYPE_TCP)
value = np.arange(1000, dtype=np.uint8)
connection.tcp_write_cache("official\\0one", value.ctypes.data, value.nbytes)
assert (connection.tcp_read_cache("official\\0two") == value).all()
"""
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(infinistore.installation.preloads)}
    run_official_client(infinistore, code, libraries)
    with Connection(infinistore.address) as client:
        assert client.exists(b"official")


# The test bed's own promises.


def test_a_server_can_be_frozen_killed_and_restarted(start_infinistore: StartServer) -> None:
    server = start_infinistore()
    with Connection(server.address, timeout_s=0.3) as client:
        client.put(b"k", VALUE)
        server.freeze()
        with pytest.raises(TimeoutError):
            client.exists(b"k")
        server.thaw()
        assert client.receive_number() == 0
    address = server.address
    server.kill()
    assert not server.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Connection(address)
    server.restart()
    assert server.address == address
    assert server.kvmap_len() == 0


def test_a_server_ends_with_whoever_started_it(infinistore_installation: Installation) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from support.infinistore import InfiniStoreServer, Installation; "
        "server = InfiniStoreServer(Installation(*map(Path, sys.argv[2:]))); "
        "print(server.pid, flush=True); sys.stdin.read()"
    )
    places = (infinistore_installation.venv, infinistore_installation.preloads)
    starter = subprocess.Popen(
        [*PYTHON, "-c", code, Path(__file__).parent, *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        starter.kill()
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)

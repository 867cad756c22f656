"""What the real InfiniStore server does to a client, and what a client may do to it.

None of this is about kvcore: these are the facts that its driver is built on. Where a test fails
with another release of the server, look at what the driver does about it.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable

import pytest
from support import wire
from support.infinistore import InfiniStoreServer
from support.wire import Connection

StartServer = Callable[..., InfiniStoreServer]

VALUE = bytes(range(256)) * 256  # 64 KiB
MORE_THAN_BUFFERED = 64 << 20  # than the systems of both sides take without a reader


def is_dead(server: InfiniStoreServer) -> bool:
    """Dead, or as good as: its crash handler may deadlock, then it accepts and answers nobody."""
    return server.wait_until_dead(5) or not server.answers(1)


# What it does when it is asked politely.


def test_it_listens_on_loopback_alone_here(infinistore: InfiniStoreServer) -> None:
    listening = set()
    for line in open(f"/proc/{infinistore.pid}/net/tcp").readlines()[1:]:
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


def test_keys_of_values_stop_at_nul(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        client.put(b"nul\0one", b"value")
        names = [b"nul", b"nul\0one"]
        assert [client.exists(name) for name in names] == EXPECTED_NUL
        assert client.get(b"nul\0two") == EXPECTED_NUL_GET


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


def test_purge_forgets_and_frees_nothing(start_infinistore: StartServer) -> None:
    with start_infinistore(granule_kib=16) as server, Connection(server.address) as client:
        for i in range(10):
            client.put(b"%d" % i, VALUE)
        assert server.kvmap_len() == 10
        assert server.purge() == 10
        assert server.kvmap_len() == 0
        assert client.get(b"3") is None


# Memory.


def test_an_over_full_put_is_answered_before_its_value(infinistore: InfiniStoreServer) -> None:
    """The server does not read the value away: what is sent of it is taken for a header."""
    with Connection(infinistore.address) as client:
        client.send(wire.put_request(b"too large", 2 << 30 - 1))
        assert client.receive_code() == wire.OUT_OF_MEMORY
        assert not client.exists(b"too large")
        client.send(wire.put_request(b"too large", 2 << 30 - 1) + VALUE)
        assert client.receive_code() == wire.OUT_OF_MEMORY
        with pytest.raises(ConnectionError):
            client.receive(1)
    assert infinistore.answers()

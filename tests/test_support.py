"""The test bed itself: the proxy and the fake server do what tests of clients count on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support import wire
from support.fake_server import Act, FakeServer, HonestScript, Request
from support.ports import Port
from support.proxy import Proxy
from support.wire import Connection

VALUE = bytes(range(256)) * 256


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def proxy(fake: FakeServer) -> Iterator[Proxy]:
    with Proxy(fake.address) as proxy:
        yield proxy


def test_a_reserved_port_is_nobody_elses() -> None:
    ports = [Port() for _ in range(50)]
    assert len({port.number for port in ports}) == 50
    for port in ports:
        port.release()


def test_fake_server_answers_as_the_real_one(fake: FakeServer) -> None:
    with Connection(fake.address) as client:
        assert client.put(b"a" * 32, VALUE) == wire.OK
        assert client.put(b"b", b"") == wire.OK
        assert client.get(b"a" * 32) == VALUE
        assert client.get(b"c") is None
        assert client.exists(b"b")
        assert not client.exists(b"c")
        assert client.match([b"a" * 32, b"b", b"c"]) == 1
        assert client.match([b"c"]) == -1
        assert client.delete([b"a" * 32, b"c"]) == 1
    assert b"".join(request.operation for request in fake.requests) == b"PPPPGGCCMMX"
    assert not fake.errors


@pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET, Act.SILENCE])
def test_fake_server_lies_on_demand(fake: FakeServer, act: Act) -> None:
    honest = HonestScript()
    honest.values[b"k"] = VALUE

    def script(request: Request) -> object:
        return [b"\xc8\0", act] if request.number == 1 else honest(request)

    fake.script = script  # type: ignore[assignment]
    with Connection(fake.address, timeout_s=0.2) as client:
        assert client.get(b"k") == VALUE
        with pytest.raises(TimeoutError if act is Act.SILENCE else ConnectionError):
            client.get(b"k")
    with Connection(fake.address) as client:
        assert client.get(b"k") == VALUE


def test_fake_server_may_answer_a_put_before_its_value(fake: FakeServer) -> None:
    fake.script = lambda request: (wire.CODE.pack(wire.OUT_OF_MEMORY), Act.CLOSE)
    with Connection(fake.address) as client:
        client.put_part(b"k", b"", 100)
        assert client.receive_code() == wire.OUT_OF_MEMORY


def test_proxy_delays_each_way(fake: FakeServer, proxy: Proxy) -> None:
    with Connection(proxy.address) as client:
        assert client.put(b"k", VALUE) == wire.OK
        proxy.delay_ms = 30
        start = time.perf_counter()
        assert client.get(b"k") == VALUE
        assert time.perf_counter() - start >= 0.06
        proxy.delay_ms = 0
        assert client.get(b"k") == VALUE


def test_proxy_freezes(proxy: Proxy) -> None:
    with Connection(proxy.address, timeout_s=0.2) as client:
        assert not client.exists(b"k")
        proxy.freeze()
        with pytest.raises(TimeoutError):
            client.exists(b"k")
        with Connection(proxy.address, timeout_s=0.2) as other, pytest.raises(TimeoutError):
            other.exists(b"k")
        proxy.thaw()
        assert client.receive_number() == 1  # the answer was only late


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 1000, len(VALUE) + 7])
def test_proxy_cuts_what_the_client_gets(fake: FakeServer, proxy: Proxy, cut: int) -> None:
    with Connection(fake.address) as client:
        client.put(b"k", VALUE)
    proxy.cut_to_client_after = cut
    with Connection(proxy.address) as client:
        client.send(wire.get_request(b"k"))
        assert len(client.receive(cut)) == cut
        with pytest.raises(ConnectionError):
            client.receive(1)
    proxy.cut_to_client_after = None
    with Connection(proxy.address) as client:
        assert client.get(b"k") == VALUE


@pytest.mark.parametrize("short", [0, 1, 1000])
def test_proxy_cuts_what_the_server_gets(fake: FakeServer, proxy: Proxy, short: int) -> None:
    request = wire.put_request(b"k", len(VALUE)) + VALUE
    proxy.cut_to_server_after = len(request) - short
    with Connection(proxy.address) as client:
        client.send(request)
        with pytest.raises(ConnectionError):
            client.receive(5)
    end = time.monotonic() + 5
    while short == 0 and not any(request.value for request in fake.requests):
        assert time.monotonic() < end
        time.sleep(0.01)
    proxy.cut_to_server_after = None
    with Connection(proxy.address) as client:
        assert client.exists(b"k") == (short == 0)


def test_proxy_refuses_and_drops(proxy: Proxy) -> None:
    with Connection(proxy.address) as client:
        assert not client.exists(b"k")
        proxy.refuse()
        assert not client.exists(b"k")
        with pytest.raises(ConnectionRefusedError):
            Connection(proxy.address)
        proxy.drop()
        with pytest.raises(ConnectionError):
            client.exists(b"k")
    proxy.accept()
    with Connection(proxy.address) as client:
        assert not client.exists(b"k")
    assert proxy.num_connections == 2


@pytest.mark.parametrize("harms", [False, True])
def test_proxy_cuts_without_harm_to_the_server(fake: FakeServer, proxy: Proxy, harms: bool) -> None:
    proxy.cuts_harm_server = harms
    ends: list[str] = []
    value = bytes(64 << 20)

    fake.script = lambda request: [wire.CODE.pack(wire.OK), value]
    fake.on_end = lambda error: ends.append(type(error).__name__ if error else "closed")
    proxy.cut_to_client_after = 1000
    with Connection(proxy.address) as client:
        client.send(wire.exists_request(b"k"))
        assert len(client.receive(1000)) == 1000
        with pytest.raises(ConnectionError):
            client.receive(1)
    end = time.monotonic() + 5
    while not ends:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (ends == ["closed"]) == (not harms)


@pytest.mark.parametrize("resets", [False, True])
def test_proxy_passes_on_how_a_client_left(fake: FakeServer, proxy: Proxy, resets: bool) -> None:
    ends: list[str] = []
    fake.on_end = lambda error: ends.append(type(error).__name__ if error else "closed")
    client = Connection(proxy.address)
    assert not client.exists(b"k")
    client.reset() if resets else client.socket.close()
    end = time.monotonic() + 5
    while not ends:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ends == ["ConnectionResetError" if resets else "closed"]


def test_proxy_carries_much(fake: FakeServer, proxy: Proxy) -> None:
    value = bytes(64 << 20)
    with Connection(proxy.address) as client:
        start = time.perf_counter()
        assert client.put(b"k", value) == wire.OK
        assert client.get(b"k") == value
        assert time.perf_counter() - start < 5

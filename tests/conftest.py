"""Test settings. ``HYPOTHESIS_PROFILE=soak`` looks for new examples, for as long as it takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from support.infinistore import InfiniStoreServer, Installation
    from support.infinistore_node import Node
    from support.mooncake_server import MooncakeMaster
    from support.redis_node import RedisNode
    from support.redis_server import RedisServer

pytest.register_assert_rewrite("models", "support")

settings.register_profile(
    "default",
    derandomize=True,  # the same examples on every machine
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "soak", parent=settings.get_profile("default"), derandomize=False, max_examples=2500
)
# For planted bugs: a failure is all that is asked for, not the smallest.
settings.register_profile("bugs", parent=settings.get_profile("default"), phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def infinistore_installation() -> Installation:
    """Where the real InfiniStore server is; skips where it cannot be."""
    from support.infinistore import NotInstallableError, install

    try:
        return install()
    except NotInstallableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def infinistore(infinistore_installation: Installation) -> Iterator[InfiniStoreServer]:
    """One server a module, for tests that do it no harm: their keys stay."""
    from support.infinistore import InfiniStoreServer

    with InfiniStoreServer(infinistore_installation) as server:
        yield server


@pytest.fixture(scope="session")
def rdma_python(
    infinistore_installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A Python for lines over RDMA, with the emulated card."""
    path = tmp_path_factory.mktemp("rdma") / "python"
    return infinistore_installation.write_rdma_python(path)


@pytest.fixture
def infinistore_rdma(infinistore: InfiniStoreServer, rdma_python: str) -> tuple[Any, str]:
    """The server of the module, and what reaches it over RDMA."""
    return infinistore, rdma_python


@pytest.fixture
def start_infinistore(
    infinistore_installation: Installation,
) -> Iterator[Callable[..., InfiniStoreServer]]:
    """Starts servers, with the options of `InfiniStoreServer`, until the end of the test."""
    from support.infinistore import InfiniStoreServer

    with ExitStack() as servers:

        def start(**options: Any) -> InfiniStoreServer:
            return servers.enter_context(InfiniStoreServer(infinistore_installation, **options))

        yield start


@pytest.fixture
def fingerprint() -> bytes:
    """A namespace that nobody else has."""
    return os.urandom(16)


@pytest.fixture
def new_node(infinistore: InfiniStoreServer, fingerprint: bytes) -> Iterator[Callable[..., Node]]:
    """Makes nodes that share a server and a namespace."""
    from support.infinistore_node import Node

    made: list[Node] = []

    def new(*addresses: tuple[str, int], **options: Any) -> Node:
        made.append(Node(fingerprint, *(addresses or [infinistore.address]), **options))
        return made[-1]

    yield new
    for node in made:
        node.store.close()


@pytest.fixture(scope="session")
def redis_servers() -> Path:
    """Where the real Redis and Valkey servers are; skips where they cannot be."""
    from support.redis_server import NotInstallableError, install

    try:
        return install()
    except NotInstallableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def redis(redis_servers: Path) -> Iterator[RedisServer]:
    """One server a module, for tests that do it no harm: their keys stay."""
    from support.redis_server import RedisServer

    with RedisServer(redis_servers, "redis") as server:
        yield server


@pytest.fixture(scope="module")
def valkey(redis_servers: Path) -> Iterator[RedisServer]:
    """As `redis`, of Valkey."""
    from support.redis_server import RedisServer

    with RedisServer(redis_servers, "valkey") as server:
        yield server


@pytest.fixture
def start_redis(redis_servers: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers, with the arguments of `RedisServer`, until the end of the test."""
    from support.redis_server import RedisServer

    with ExitStack() as servers:

        def start(kind: str = "redis", **options: str) -> RedisServer:
            return servers.enter_context(RedisServer(redis_servers, kind, **options))

        yield start


@pytest.fixture
def new_redis_node() -> Iterator[Callable[..., RedisNode]]:
    """Makes nodes that share values on a Redis server."""
    from support.redis_node import RedisNode

    made: list[RedisNode] = []
    fingerprint = os.urandom(16)

    def new(server: RedisServer | str, **options: Any) -> RedisNode:
        url = server if isinstance(server, str) else server.url
        made.append(RedisNode(url, fingerprint, **options))
        return made[-1]

    yield new
    for node in made:
        node.store.close()


@pytest.fixture(scope="module")
def mooncake() -> Iterator[MooncakeMaster]:
    """One cluster a module, where `mooncake` can be imported; see test_mooncake.py."""
    from support.mooncake_server import MooncakeMaster

    with MooncakeMaster() as master:
        yield master


@pytest.fixture
def start_mooncake() -> Iterator[Callable[..., MooncakeMaster]]:
    """Starts clusters, with the arguments of `MooncakeMaster`, until the end of the test."""
    from support.mooncake_server import MooncakeMaster

    with ExitStack() as masters:

        def start(**options: Any) -> MooncakeMaster:
            return masters.enter_context(MooncakeMaster(**options))

        yield start

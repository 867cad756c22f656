"""Blocks over RDMA: what its processes suffer the engine does not, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.processes import PYTHON
from support.batches import WAIT_S, chain, outcomes, wait_quiet
from support.infinistore import InfiniStoreServer
from support.infinistore_node import BLOCK_BYTES, Node

from kvcore.stores import InfiniStoreStore, Outcome, Server, open_store, rdma

Start = Callable[..., InfiniStoreServer]
QUICK = {"first_probe_s": 0.05, "last_probe_s": 0.2}


def processes_of(parent: int) -> list[int]:
    """The processes that carry lines of a process, dead ones that nobody waited for too."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # no process, or it has ended meanwhile
        if int(ppid) == parent and (b"rdma_line.py" in command or state == "Z"):
            found.append(int(folder.name))
    return found


def until(is_so: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def new_rdma_node(new_node: Callable[..., Node], rdma_python: str) -> Callable[..., Node]:
    def new(*addresses: tuple[str, int], **options: Any) -> Node:
        options = {"transport": "rdma", "rdma_python": rdma_python, "connections": 1, **options}
        return new_node(*addresses, **options)

    return new


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a process behind, once its stores are closed."""
    before = set(processes_of(os.getpid()))
    yield
    until(lambda: set(processes_of(os.getpid())) <= before)


# --- Blocks --------------------------------------------------------------------------------------


def test_tcp_and_rdma_share_blocks(
    new_node: Callable[..., Node], new_rdma_node: Callable[..., Node]
) -> None:
    for writer, reader in ((new_node(), new_rdma_node()), (new_rdma_node(), new_node())):
        hashes = chain(100)
        assert writer.put(hashes) == [Outcome.DONE] * 100
        assert reader.ask(hashes) == 100
        assert reader.get(hashes) == [Outcome.DONE] * 100
        positions = np.arange(100)
        removed = outcomes(reader.store.remove(hashes, WAIT_S, positions=positions))
        assert set(removed) == {Outcome.DONE}
        assert set(writer.get(hashes)) == {Outcome.MISS}


@pytest.mark.parametrize("block_bytes", [8, (2 << 20) - 8, 5 << 20])
def test_values_of_any_size(new_rdma_node: Callable[..., Node], block_bytes: int) -> None:
    options = {"block_bytes": block_bytes, "chunk_blocks": 1, "most_blocks": 5}
    writer, reader = (new_rdma_node(connections=2, **options) for _ in range(2))
    hashes = chain(5)
    assert writer.put(hashes) == [Outcome.DONE] * 5
    assert reader.get(hashes) == [Outcome.DONE] * 5


def test_many_threads_share_few_lines(new_rdma_node: Callable[..., Node]) -> None:
    writer = new_rdma_node(connections=3)
    chains = [chain(60) for _ in range(4)]
    for hashes in chains:
        assert set(writer.put(hashes)) == {Outcome.DONE}
    nodes = [new_rdma_node() for _ in chains]
    wrong = []

    def read(node: Node, hashes: Any) -> None:
        for _ in range(5):
            wrong.extend(o for o in node.get(hashes) if o != Outcome.DONE)

    threads = [threading.Thread(target=read, args=pair) for pair in zip(nodes, chains, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


EVERY_QUESTION = """
import mmap, os, runpy, sys
module = runpy.run_path(sys.argv[1])
client = module["connect"]("127.0.0.1", int(sys.argv[2]), "", 1, "Ethernet")
memory = mmap.mmap(-1, 4 << 20)
line = module["Line"](client, memory)
get, put, contains, match, remove = range(5)
done, miss, full, refused = range(4)
memory[:5] = b"value"
for key in ("every-0", "every-1"):
    assert line.do(get, [key], 5) == (miss, 0)
    assert line.do(contains, [key], 0) == (done, 0)
    assert line.do(put, [key], 5) == (done, 0)
    assert line.do(contains, [key], 0) == (done, 1)
memory[:5] = bytes(5)
assert line.do(get, ["every-0"], 5) == (done, 0) and memory[:5] == b"value"
assert line.do(get, ["every-0"], 4) == (refused, 0)
assert line.do(match, ["every-0", "every-1", "none"], 0) == (done, 2)
assert line.do(match, ["none"], 0) == (done, 0)
assert line.do(remove, ["every-0", "none"], 0) == (done, 1)
assert line.do(get, ["every-0"], 5) == (miss, 0)
os._exit(0)
"""


def test_every_question_is_answered(infinistore: InfiniStoreServer, rdma_python: str) -> None:
    line = Path(rdma.__file__).with_name("rdma_line.py")
    done = subprocess.run(
        [rdma_python, "-c", EVERY_QUESTION, line, str(infinistore.port)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- What happens to the processes ---------------------------------------------------------------


def ready(node: Node) -> int:
    """Waits until its only line works, and returns the process of that."""
    until(lambda: node.put(chain(1)) == [Outcome.DONE])
    [pid] = processes_of(os.getpid())
    return pid


def start_get(node: Node, hashes: Any, timeout_s: float) -> Any:
    places = np.arange(len(hashes))
    return node.store.get_into(hashes, node.slab, places, timeout_s, positions=places)


def test_a_process_that_is_killed_fails_what_it_was_asked(
    new_rdma_node: Callable[..., Node],
) -> None:
    node = new_rdma_node(stall_s=WAIT_S, **QUICK)
    hashes = chain(8)
    pid = ready(node)
    assert set(node.put(hashes)) == {Outcome.DONE}
    os.kill(pid, signal.SIGSTOP)
    batch = start_get(node, hashes, WAIT_S)
    time.sleep(0.1)
    assert not batch.is_quiet()
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert Outcome.TIMED_OUT not in outcomes(batch)  # it may be asked again, elsewhere
    wait_quiet(batch)
    assert time.monotonic() - start < 5.0
    [stats] = node.store.server_stats().values()
    assert stats.failed >= 1
    assert node.get(hashes) == [Outcome.DONE] * 8
    assert processes_of(os.getpid()) != [pid]


def test_a_process_that_stands_still_is_replaced(new_rdma_node: Callable[..., Node]) -> None:
    node = new_rdma_node(stall_s=WAIT_S, **QUICK)
    hashes = chain(8)
    pid = ready(node)
    assert set(node.put(hashes)) == {Outcome.DONE}
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert Outcome.TIMED_OUT in node.get(hashes, timeout_s=0.2)
    assert time.monotonic() - start < 2.0
    assert node.get(hashes) == [Outcome.DONE] * 8
    assert processes_of(os.getpid()) != [pid]


def test_a_process_that_is_late_once_is_kept(
    start_infinistore: Start, new_rdma_node: Callable[..., Node]
) -> None:
    """It takes longer to replace than most deadlines are."""
    server = start_infinistore()
    node = new_rdma_node(server.address, stall_s=WAIT_S)
    hashes = chain(8)
    pid = ready(node)
    assert set(node.put(hashes)) == {Outcome.DONE}
    server.freeze()
    assert Outcome.TIMED_OUT in node.get(hashes, timeout_s=0.05)
    server.thaw()
    assert node.get(hashes) == [Outcome.DONE] * 8
    assert processes_of(os.getpid()) == [pid]


def test_one_that_hangs_does_not_hold_up_the_others(new_rdma_node: Callable[..., Node]) -> None:
    node = new_rdma_node(connections=2, **QUICK)
    hashes = chain(8)
    until(lambda: node.put(hashes) == [Outcome.DONE] * 8)
    until(lambda: next(iter(node.store.server_stats().values())).connects == 2)
    os.kill(processes_of(os.getpid())[0], signal.SIGSTOP)
    start = time.monotonic()
    until(lambda: node.get(hashes, timeout_s=0.5) == [Outcome.DONE] * 8)
    assert time.monotonic() - start < 5.0


def test_a_server_that_is_killed_costs_its_stall_once(
    start_infinistore: Start, new_rdma_node: Callable[..., Node]
) -> None:
    server = start_infinistore()
    node = new_rdma_node(server.address, connections=2, stall_s=0.3, **QUICK)
    hashes = chain(200)
    until(lambda: set(node.put(hashes)) == {Outcome.DONE})
    server.kill()
    for _ in range(10):
        start = time.monotonic()
        assert set(node.get(hashes)) <= {Outcome.FAILED, Outcome.MISS}
        assert time.monotonic() - start < 2.0
    server.restart()
    until(lambda: set(node.put(hashes)) == {Outcome.DONE})
    assert node.get(hashes) == [Outcome.DONE] * 200


def test_the_end_of_an_idle_connection_is_noticed(
    start_infinistore: Start, new_rdma_node: Callable[..., Node]
) -> None:
    server = start_infinistore()
    node = new_rdma_node(server.address, **QUICK)
    ready(node)
    server.kill()
    until(lambda: processes_of(os.getpid()) == [])
    server.restart()
    hashes = chain(8)
    until(lambda: set(node.put(hashes)) == {Outcome.DONE})
    assert node.get(hashes) == [Outcome.DONE] * 8


def test_no_server_no_wait(new_rdma_node: Callable[..., Node]) -> None:
    node = new_rdma_node(("127.0.0.1", 9))
    until(lambda: node.get(chain(8), timeout_s=0.1)[0] == Outcome.FAILED)
    start = time.monotonic()
    for _ in range(20):
        node.get(chain(8))
    assert time.monotonic() - start < 1.0


ANSWER = "import os, struct; os.write(3, struct.pack('=II', 4, 0));"
LIARS = {
    "ends": "",
    "says nothing": "import time; time.sleep(1000)",
    "is not ready": "import os, struct; os.write(3, struct.pack('=II', 0, 0)); os.read(3, 16)",
    "says too much": ANSWER + "os.read(3, 16); os.write(3, bytes(9))",
    "says it twice": ANSWER + "\nwhile os.read(3, 16): [os.write(3, bytes(8)) for _ in range(2)]",
    "knows no number": ANSWER
    + "\nwhile os.read(3, 16): os.write(3, struct.pack('=II', 0, 1 << 31))",
    "knows no code": ANSWER + "\nwhile os.read(3, 16): os.write(3, struct.pack('=II', 77, 0))",
    "is ready again": ANSWER + "\nwhile os.read(3, 16): os.write(3, struct.pack('=II', 4, 0))",
    "makes the memory short": ANSWER
    + "\nwhile os.read(3, 16): os.ftruncate(4, 0); os.write(3, bytes(8))",
    "has bytes of nobody": ANSWER + "\nwhile os.read(3, 16): os.write(3, bytes(8))",
}


@pytest.mark.parametrize("liar", LIARS.values(), ids=lambda liar: None)
def test_no_process_harms_the_engine(fingerprint: bytes, tmp_path: Path, liar: str) -> None:
    """Whatever it says, nothing comes of it but misses, in time."""
    code = tmp_path / "liar.py"
    code.write_text(liar)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exec "{sys.executable}" -S "{code}"\n')
    python.chmod(0o755)
    options = {"transport": "rdma", "rdma_python": str(python), "connections": 2, **QUICK}
    node = Node(fingerprint, ("127.0.0.1", 9), **options)
    for _ in range(5):
        start = time.monotonic()
        assert Outcome.DONE not in node.get(chain(4), timeout_s=0.3)
        assert Outcome.DONE not in outcomes(
            node.store.contains(chain(4), 0.3, positions=np.arange(4))
        )
        assert time.monotonic() - start < 2.0
    node.store.close()


# --- What they leave behind ----------------------------------------------------------------------


ENGINE = """
import faulthandler, os, sys, time
sys.path.insert(0, sys.argv[1])
faulthandler.enable()
from support.batches import chain
from support.infinistore_node import Node
from kvcore.stores import Outcome

def state():
    with open("/proc/self/status") as file:
        caught = [line for line in file if line.startswith(("SigCgt", "SigIgn", "SigBlk"))]
    return caught, dict(os.environ), "infinistore" in sys.modules

before = state()
node = Node(os.urandom(16), ("127.0.0.1", int(sys.argv[2])), transport="rdma",
            rdma_python=sys.argv[3], connections=2)
hashes = chain(16)
assert set(node.put(hashes)) == {Outcome.DONE}
assert set(node.get(hashes)) == {Outcome.DONE}
"""


def test_the_engine_is_as_it_was(infinistore: InfiniStoreServer, rdma_python: str) -> None:
    code = ENGINE + "assert faulthandler.is_enabled() and state() == before\nnode.store.close()\n"
    done = subprocess.run(
        [*PYTHON, "-c", code, Path(__file__).parent, str(infinistore.port), rdma_python],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("hangs", [False, True])
def test_processes_end_with_the_engine(
    start_infinistore: Start, rdma_python: str, hangs: bool
) -> None:
    """However it ends, and where they wait for a server and can not notice it."""
    server = start_infinistore()
    code = (
        ENGINE
        + "print(before[2], flush=True)\nsys.stdin.readline()\n"
        + "late = [node.store.get_into(hashes[i:i+1], node.slab, [i], 30.0) for i in range(16)]\n"
        + "time.sleep(0.2)\nprint('asked', flush=True)\nsys.stdin.read()\n"
    )
    engine = subprocess.Popen(
        [*PYTHON, "-c", code, Path(__file__).parent, str(server.port), rdma_python],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        assert engine.stdout.readline() == "False\n"
        pids = processes_of(engine.pid)
        assert len(pids) == 2
        if hangs:
            server.freeze()
            print(file=engine.stdin, flush=True)
            assert engine.stdout.readline() == "asked\n"
        engine.kill()
    try:
        until(lambda: not any(is_running(pid) for pid in pids), 5)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whoever inherits it may leave it a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_closed_store_has_no_processes(new_rdma_node: Callable[..., Node]) -> None:
    node = new_rdma_node(connections=4)
    ready_hashes = chain(4)
    until(lambda: node.put(ready_hashes) == [Outcome.DONE] * 4)
    os.kill(processes_of(os.getpid())[0], signal.SIGSTOP)
    start_get(node, ready_hashes, WAIT_S)
    start = time.monotonic()
    node.store.close()
    assert time.monotonic() - start < 2.0
    assert processes_of(os.getpid()) == []


def test_servers_that_leave_take_their_processes(
    infinistore: InfiniStoreServer, new_rdma_node: Callable[..., Node]
) -> None:
    node = new_rdma_node()
    ready(node)
    node.store.set_servers([])
    until(lambda: processes_of(os.getpid()) == [])
    node.store.set_servers([Server(*infinistore.address)])
    ready(node)


# --- Arguments -----------------------------------------------------------------------------------


def test_without_the_package_its_extra_is_named(fingerprint: bytes) -> None:
    url = "infinistore://127.0.0.1?transport=rdma"
    with pytest.raises(ImportError, match=r"pip install 'kvcore\[infinistore\]'"):
        open_store(url, fingerprint, BLOCK_BYTES)
    with pytest.raises(ImportError, match="/no/python has not"):
        open_store(url + "&rdma_python=/no/python", fingerprint, BLOCK_BYTES)


def test_a_url_says_how(
    infinistore: InfiniStoreServer, rdma_python: str, fingerprint: bytes
) -> None:
    url = f"infinistore://127.0.0.1:{infinistore.port}?transport=rdma&rdma_python={rdma_python}"
    store = open_store(url + "&connections=2", fingerprint, BLOCK_BYTES)
    until(lambda: len(processes_of(os.getpid())) == 2)
    store.close()


def test_auto_is_rdma_where_all_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rdma_python: str
) -> None:
    monkeypatch.setattr(rdma, "DEVICES", tmp_path / "none")
    assert rdma.line_command("auto", rdma_python, None) is None
    monkeypatch.setattr(rdma, "DEVICES", tmp_path)
    assert rdma.line_command("auto", rdma_python, None) is None
    link_layer = tmp_path / "mlx5_0" / "ports" / "1" / "link_layer"
    link_layer.parent.mkdir(parents=True)
    link_layer.write_text("InfiniBand\n")
    assert rdma.line_command("auto", "/no/python", None) is None
    assert rdma.line_command("tcp", rdma_python, None) is None
    command = rdma.line_command("auto", rdma_python, None)
    assert command is not None
    assert command[0] == rdma_python
    assert command[2:] == ["", "1", "IB"]
    link_layer.write_text("Ethernet\n")
    assert (rdma.line_command("rdma", rdma_python, "mlx5_0:1") or [])[2:] == [
        "mlx5_0",
        "1",
        "Ethernet",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transport": "udp"}, "transport must be one of tcp, rdma, auto, got 'udp'"),
        ({"transport": "rdma", "rdma_device": "mlx5:x"}, "rdma_device must be a device"),
        ({"transport": "rdma", "rdma_device": "mlx5:0"}, "rdma_device must be a device"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfiniStoreStore([Server("127.0.0.1")], bytes(16), BLOCK_BYTES, **options)

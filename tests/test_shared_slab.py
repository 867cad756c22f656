"""SharedSlab: processes share memory by a name; when the last owner ends, however, it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.processes import PYTHON

from kvcore import SharedSlab, ownership

DIRECTORY = Path("/dev/shm") / f"kvcore-{os.getuid()}"
WAIT_S = 60.0


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of this test's own; whatever it left is removed."""
    made = f"test-{os.getpid()}-{abs(hash(request.node.nodeid)):x}"
    yield made
    for path in files_of(made):
        path.unlink()


def files_of(name: str) -> list[Path]:
    return [p for p in (DIRECTORY / f"{name}{end}" for end in (".json", ".data")) if p.exists()]


class Process:
    """Runs code that has a slab `slab`, then does what it is told line by line."""

    CODE = """
import os, signal, sys
from kvcore import SharedSlab
try:
    slab = SharedSlab({name!r}, 8, 1000, **{options!r})
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(3)
print(slab.origin, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

    def __init__(self, name: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*PYTHON, "-c", self.CODE.format(name=name, options=options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.answer() == "done"

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        assert self.answer() == "done"
        return answer

    def end(self) -> None:
        self.process.communicate(timeout=WAIT_S)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=WAIT_S)


def run(code: str, *arguments: str) -> str:
    """What code prints; it must end, and well."""
    return subprocess.run(
        [*PYTHON, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=WAIT_S,
        check=True,
    ).stdout


# --- Sharing ------------------------------------------------------------------------------------


def test_processes_see_the_same_bytes(name: str) -> None:
    slab = SharedSlab(name, 8, 1000)
    assert (slab.name, slab.origin) == (name, "made")
    other = Process(name)
    assert other.answer() == "mapped"
    other.do("slab.numpy()[3, 999] = 7")
    assert slab.numpy()[3, 999] == 7
    slab.numpy()[3, 999] = 8
    other.do("assert slab.numpy()[3, 999] == 8")
    other.end()
    assert other.process.returncode == 0


def test_one_process_may_map_it_twice(name: str) -> None:
    first, second = SharedSlab(name, 8, 1000), SharedSlab(name, 8, 1000)
    first.numpy()[:] = 5
    first.close()
    assert files_of(name) != []
    assert (second.numpy() == 5).all()
    second.close()
    assert files_of(name) == []


def test_of_many_that_start_at_once_one_makes_it(name: str) -> None:
    processes = [Process(name, exclusive=True) for _ in range(8)]
    answers = [process.answer() for process in processes]
    assert answers.count("made") == 1
    assert (
        sum(answer.startswith("FileExistsError exclusive: another process") for answer in answers)
        == 7
    )
    for process in processes:
        process.end()
    assert files_of(name) == []


def test_many_that_start_at_once_share_it(name: str) -> None:
    processes = [Process(name) for _ in range(8)]
    answers = [process.answer() for process in processes]
    assert sorted(answers) == ["made"] + ["mapped"] * 7
    for i, process in enumerate(processes):
        process.do(f"slab.numpy()[{i}] = {i + 1}")
    processes[0].do("assert slab.numpy()[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]")
    for process in processes:
        process.end()
    assert files_of(name) == []


# --- Ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["slab.close()", "del slab", "sys.exit(1)", "raise ValueError", "pass"]
)
def test_it_goes_with_its_last_owner(name: str, end: str) -> None:
    process = Process(name)
    assert process.answer() == "made"
    assert len(files_of(name)) == 2
    assert process.process.stdin is not None
    process.process.stdin.write(end + "\n")
    process.end()
    assert files_of(name) == []


def test_what_a_kill_left_is_removed_by_the_next_start_of_any(name: str) -> None:
    process = Process(name)
    assert process.answer() == "made"
    process.do("slab.numpy()[:] = 9")
    process.kill()
    assert len(files_of(name)) == 2
    SharedSlab(name + "-other", 1, 64).close()
    assert files_of(name) == []


def test_what_a_kill_left_is_not_seen_again(name: str) -> None:
    process = Process(name)
    assert process.answer() == "made"
    process.do("slab.numpy()[:] = 9")
    process.kill()
    slab = SharedSlab(name, 8, 1000)
    assert slab.origin == "made"
    assert not slab.numpy().any()


def test_a_kill_takes_nothing_from_other_owners(name: str) -> None:
    slab = SharedSlab(name, 8, 1000)
    slab.numpy()[:] = 4
    process = Process(name)
    assert process.answer() == "mapped"
    process.kill()
    third = Process(name)
    assert third.answer() == "mapped"
    third.do("assert (slab.numpy() == 4).all()")
    third.end()
    assert len(files_of(name)) == 2


# Forks a child for each step that it takes to make a slab and to end it, and kills it there.
KILLED_AT_EACH_STEP = """
import os, signal, sys
from kvcore import SharedSlab
name, persist = sys.argv[1], sys.argv[2] == "persist"

def child(step):
    steps = 0
    def hook(event, args):
        nonlocal steps
        if event.startswith(("open", "os.", "fcntl.")):
            steps += 1
            if steps == step + 1:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    SharedSlab(name, 8, 1000, persist=persist).close()
    os._exit(0)

step, status = 0, -1
while status != 0:
    pid = os.fork()
    if pid == 0:
        child(step)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if persist:
        SharedSlab(name + "-other", 1, 64).close()
        SharedSlab.remove(name)
    slab = SharedSlab(name, 8, 1000, exclusive=True)
    assert slab.origin == "made" and not slab.numpy().any()
    slab.numpy()[:] = 1
    slab.close()
    step += 1
print(step)
"""


@pytest.mark.parametrize("persist", ["", "persist"])
def test_a_kill_at_any_step_leaves_nothing_that_stays(name: str, persist: str) -> None:
    assert int(run(KILLED_AT_EACH_STEP, name, persist)) > 20
    assert files_of(name) == []


def test_a_forked_child_ends_nothing(name: str) -> None:
    process = Process(name)
    assert process.answer() == "made"
    process.do("pid = os.fork(); os.waitpid(pid, 0) if pid else sys.exit(0)")
    assert len(files_of(name)) == 2
    process.end()
    assert files_of(name) == []


@contextmanager
def forked(process: Process, before: str = "") -> Iterator[None]:
    """A child of a process, which does nothing and lives on when its parent is killed."""
    process.do(f"{before}pid = os.fork() or (os.closerange(0, 3), signal.pause())")
    pid = int(process.ask("print(pid, flush=True)"))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_forked_child_owns_nothing(name: str, is_killed: bool) -> None:
    process = Process(name)
    assert process.answer() == "made"
    with forked(process):
        if is_killed:
            process.kill()
            SharedSlab(name + "-other", 1, 64).close()
        else:
            process.end()
        assert files_of(name) == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_fork_in_the_middle_of_a_change_holds_nobody_up(name: str, is_killed: bool) -> None:
    process = Process(name)
    assert process.answer() == "made"
    process.do("from kvcore import ownership; change = ownership.alone()")
    with forked(process, "change.__enter__(); "):
        if is_killed:
            process.kill()
        else:
            process.do("change.__exit__(None, None, None)")
        run(f"from kvcore import SharedSlab; SharedSlab({name!r} + '-b', 1, 64)")
    if not is_killed:
        process.end()
    SharedSlab(name, 8, 1000, exclusive=True).close()
    assert files_of(name) == []


def test_a_lock_ends_though_another_process_has_the_file_open(name: str) -> None:
    """As a child has that is about to run another program."""
    slab = SharedSlab(name, 8, 1000)
    held = [os.dup(fd) for fd in ownership._held]
    slab.close()
    for fd in held:
        assert files_of(name) == []
        os.close(fd)


# Slabs that end in cycles while others are made. Their ends must not wait for that.
COLLECTED = """
import faulthandler, gc, sys
faulthandler.dump_traceback_later(20, exit=True)
from types import SimpleNamespace
from kvcore import SharedSlab, shared_slab
gc.disable()
inside = shared_slab._remove_leftovers

def remove_leftovers():
    gc.collect()  # which may come by at any time
    inside()

shared_slab._remove_leftovers = remove_leftovers
for i in range(6):
    cycle = SimpleNamespace(slab=SharedSlab(f"{sys.argv[1]}-{i % 2}", 1, 64))
    cycle.itself = cycle
    del cycle
"""


def test_the_garbage_collector_may_come_by_at_any_time(name: str) -> None:
    run(COLLECTED, name)
    assert files_of(name + "-0") == files_of(name + "-1") == []


def test_arrays_outlive_the_name(name: str) -> None:
    slab = SharedSlab(name, 8, 1000)
    view = slab.numpy()
    slab.close()
    slab.close()
    del slab
    view[:] = 3
    assert (view == 3).all()


# --- What persists ------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
def test_what_persists_is_adopted_with_its_bytes(name: str, killed: bool) -> None:
    process = Process(name, persist=True)
    assert process.answer() == "made"
    process.do("slab.numpy()[5] = 6")
    process.kill() if killed else process.end()
    with pytest.raises(FileExistsError, match="persisted; pass adopt=True"):
        SharedSlab(name, 8, 1000, persist=True)
    slab = SharedSlab(name, 8, 1000, persist=True, adopt=True)
    assert slab.origin == "adopted"
    assert (slab.numpy()[5] == 6).all()
    assert not slab.numpy()[4].any()
    other = Process(name, persist=True, adopt=True)
    assert other.answer() == "mapped"
    other.end()
    with pytest.raises(FileExistsError, match="a process owns"):
        SharedSlab.remove(name)
    slab.close()
    assert SharedSlab.remove(name)
    assert not SharedSlab.remove(name)
    assert files_of(name) == []


def test_adopt_makes_what_is_not_there(name: str) -> None:
    slab = SharedSlab(name, 8, 1000, persist=True, adopt=True)
    assert slab.origin == "made"
    slab.close()
    SharedSlab.remove(name)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"num_blocks": 8', b"null"])
def test_a_damaged_manifest_that_nobody_owns_is_removed(name: str, content: bytes) -> None:
    SharedSlab(name, 8, 1000, persist=True).close()
    (DIRECTORY / f"{name}.json").write_bytes(content)
    slab = SharedSlab(name, 8, 1000)
    assert slab.origin == "made"
    slab.close()


@pytest.mark.parametrize("end", [".json", ".data"])
def test_half_of_what_persisted_is_nothing(name: str, end: str) -> None:
    SharedSlab(name, 8, 1000, persist=True).close()
    (DIRECTORY / f"{name}{end}").unlink()
    slab = SharedSlab(name, 8, 1000, exclusive=True)
    assert slab.origin == "made"
    slab.close()
    assert files_of(name) == []


def test_memory_that_was_cut_short_is_an_error(name: str) -> None:
    SharedSlab(name, 8, 1000, persist=True).close()
    os.truncate(DIRECTORY / f"{name}.data", 4096)
    with pytest.raises(OSError, match="cut short"):
        SharedSlab(name, 8, 1000, persist=True, adopt=True)
    assert SharedSlab.remove(name)


def test_a_damaged_manifest_of_an_owner_is_an_error(name: str) -> None:
    slab = SharedSlab(name, 8, 1000)
    manifest = DIRECTORY / f"{name}.json"
    manifest.write_bytes(b"{}")
    with pytest.raises(OSError, match="damaged"):
        SharedSlab(name, 8, 1000)
    slab.close()
    assert files_of(name) == []


# --- Wrong calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options"), [((9, 1000), {}), ((8, 1001), {}), ((8, 1000), {"persist": True})]
)
def test_others_must_say_the_same(
    name: str, arguments: tuple[int, int], options: dict[str, bool]
) -> None:
    slab = SharedSlab(name, 8, 1000)
    with pytest.raises(ValueError, match="8, 1000 and False, got"):
        SharedSlab(name, *arguments, **options)
    assert slab.numpy().shape == (8, 1000)


@pytest.mark.parametrize("wrong", ["", ".", "..", "a/b", "a b", "x" * 101, ".hidden", "a\0", "é"])
def test_wrong_names(wrong: str) -> None:
    with pytest.raises(ValueError, match="name must be 1 to 100 letters"):
        SharedSlab(wrong, 1, 64)
    with pytest.raises(ValueError, match="name must be"):
        SharedSlab.remove(wrong)


def test_wrong_arguments_leave_nothing(name: str) -> None:
    with pytest.raises(TypeError, match="name must be a str, got int"):
        SharedSlab(5, 1, 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="huge_pages must be 'off' or 'try'"):
        SharedSlab(name, 1, 64, huge_pages="require")
    with pytest.raises(ValueError, match="num_blocks"):
        SharedSlab(name, 0, 64)
    with pytest.raises(ValueError, match="threads"):
        SharedSlab(name, 1, 64, threads=0)
    assert files_of(name) == []


def test_wrong_types_are_named(name: str) -> None:
    for wrong in ({"persist": 1}, {"adopt": "yes"}, {"exclusive": None}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be a bool, got"):
            SharedSlab(name, 8, 1000, **wrong)  # type: ignore[arg-type]
    for sizes, message in (((2.5, 64), "num_blocks must be an int"), ((1, -1), "block_bytes must")):
        with pytest.raises((TypeError, ValueError), match=message):
            SharedSlab(name, *sizes)  # type: ignore[arg-type]
    SharedSlab(name, np.int64(8), np.uint32(1000)).close()
    assert files_of(name) == []


def test_no_room_is_an_error_and_leaves_nothing(name: str) -> None:
    with pytest.raises(OSError, match="No space left"):
        SharedSlab(name, 1 << 20, 1 << 26)
    assert files_of(name) == []

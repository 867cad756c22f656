"""The real InfiniStore server, on loopback, without an RDMA card."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType

from support.ports import Port
from support.wire import Connection

_ENV_SCRIPT = Path(__file__).parents[2] / "scripts" / "infinistore_env.sh"
_START_S = 60


@dataclass(frozen=True)
class Installation:
    """Where the server is, and the libraries that it is started with."""

    venv: Path
    preloads: Path

    @property
    def command(self) -> Path:
        return self.venv / "bin" / "infinistore"

    def environment(self) -> dict[str, str]:
        """Of a server, or of a client over RDMA, with the emulated card."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.preloads),
            "LD_PRELOAD": f"{self.preloads}/hostfix.so:{self.preloads}/fence.so",
        }

    def write_rdma_python(self, path: Path) -> str:
        """Make a Python for clients over RDMA, with the emulated card; returns its path."""
        python = self.venv / "bin" / "python"
        path.write_text(
            "#!/bin/sh\nunset PYTHONPATH PYTHONHOME\n"
            f'LD_LIBRARY_PATH="{self.preloads}" exec "{python}" "$@"\n'
        )
        path.chmod(0o755)
        return str(path)


class NotInstallableError(Exception):
    """This machine cannot run the server; says why."""


def install() -> Installation:
    """Find the server, or install it.

    Raises
    ------
    NotInstallableError
    """
    done = subprocess.run([_ENV_SCRIPT], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotInstallableError(done.stderr.strip().removeprefix("infinistore_env: "))
    venv, preloads = done.stdout.splitlines()
    return Installation(Path(venv), Path(preloads))


class InfiniStoreServer:
    """One server of the wheel. Start it from a thread that outlives it: it ends with that one.

    Parameters
    ----------
    installation : Installation
    prealloc_gib : int
        Its memory, at least 1; taken from the system as values come.
    granule_kib : int
        What it allocates in: 64 by default, 16 at least.
    memory_limit_bytes : int, optional
        Of its address space: 1.3 GB when it starts, with a `prealloc_gib` of 1.
    environment : mapping, optional
        More of it, as ``{"SOFTVERBS_DELAY_US": "1000"}``.

    Attributes
    ----------
    installation : Installation
    host : str
    port, manage_port : int
        The same after a `restart`.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        installation: Installation,
        *,
        prealloc_gib: int = 1,
        granule_kib: int = 64,
        memory_limit_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.installation = installation
        self._options = {
            "--prealloc-size": prealloc_gib,
            "--minimal-allocate-size": granule_kib,
            "--log-level": "warning",
        }
        self._memory_limit_bytes = memory_limit_bytes
        self._environment = {**installation.environment(), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = Port(), Port()
        self.port, self.manage_port = (port.number for port in self._ports)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> InfiniStoreServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stop it (SIGSTOP): connections stay, and the kernel still accepts new ones."""
        os.kill(self.pid, signal.SIGSTOP)
        _wait_until(lambda: _state(self.pid) in "TZ", "the server did not stop")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Kill it and start another, empty, on the same ports."""
        self.kill()
        self._start()

    def close(self) -> None:
        """Kill it and give its ports back; more than once does nothing."""
        self.kill()
        self._log.close()
        for port in self._ports:
            port.release()

    def is_alive(self) -> bool:
        """Whether its process is there; it may still answer nobody: see `answers`."""
        return self._process is not None and self._process.poll() is None

    def answers(self, timeout_s: float = 2) -> bool:
        """Whether it answers on a new connection."""
        try:
            with Connection(self.address, timeout_s) as connection:
                connection.exists(b"kvcore-test-answers")
        except OSError:
            return False
        return True

    def wait_until_dead(self, timeout_s: float = 10) -> bool:
        """Whether its process ended in time."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def kvmap_len(self) -> int:
        """Keys that it knows, half-written ones too."""
        return int(self._manage("GET", "/kvmap_len")["len"])

    def purge(self) -> int:
        """Forget every key; its memory stays taken. Returns how many there were."""
        return int(self._manage("POST", "/purge")["num"])

    def log(self) -> str:
        """What it has printed, over all restarts."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _start(self) -> None:
        ports = {"--service-port": self.port, "--manage-port": self.manage_port}
        options = [str(part) for option in {**self._options, **ports}.items() for part in option]
        self._process = subprocess.Popen(
            [self.installation.command, *options],
            env={**self._environment, "FENCE_PARENT": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )
        resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
        _wait_until(self._is_ready, "the server did not start", _START_S)
        if self._memory_limit_bytes is not None:
            limit = self._memory_limit_bytes
            resource.prlimit(self.pid, resource.RLIMIT_AS, (limit, limit))

    def _is_ready(self) -> bool:
        if not self.is_alive():
            raise RuntimeError(f"the server ended as it started:\n{self.log()}")
        try:
            self.kvmap_len()  # is answered last
        except OSError:
            return False
        return self.answers()

    def _manage(self, method: str, path: str) -> dict[str, int]:
        connection = HTTPConnection(self.host, self.manage_port, timeout=5)
        try:
            connection.request(method, path)
            answer: dict[str, int] = json.load(connection.getresponse())
            return answer
        finally:
            connection.close()


def _state(pid: int) -> str:
    """One letter, as in `ps`."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _wait_until(is_so: Callable[[], bool], otherwise: str, timeout_s: float = 5) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.02)

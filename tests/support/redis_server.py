"""Real Redis and Valkey servers, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis

from support.ports import Port

_ENV_SCRIPT = Path(__file__).parents[2] / "scripts" / "redis_env.sh"
_START_S = 30


class NotInstallableError(Exception):
    """This machine cannot run the servers; says why."""


def install() -> Path:
    """Find the folder of redis-server and valkey-server, or make it.

    Raises
    ------
    NotInstallableError
    """
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([_ENV_SCRIPT], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise NotInstallableError(done.stderr.strip().removeprefix("redis_env: "))
    return Path(done.stdout.strip())


class RedisServer:
    """One server, empty. Start it from a thread that outlives it: it ends with that one.

    Parameters
    ----------
    servers : Path
        See `install`.
    kind : str
        "redis" or "valkey".
    **options : str
        Of its configuration, as ``maxmemory="8mb"``; underscores stand for hyphens.

    Attributes
    ----------
    port : int
        The same after a `restart`.
    socket : Path
        Where it listens as well.
    """

    def __init__(self, servers: Path, kind: str = "redis", **options: str) -> None:
        self._program = servers / f"{kind}-server"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="kvcore-redis-")
        self.socket = Path(self._folder.name) / "socket"
        self._options = {
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": self._folder.name,
            "save": "",
            "appendonly": "no",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self._port = Port()
        self.port = self._port.number
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        """Another client, to look at what is there and to change it. To be closed."""
        return redis.Redis(port=self.port, password=self._options.get("requirepass"))

    def freeze(self) -> None:
        """Stop it (SIGSTOP): connections stay, and the kernel still accepts new ones."""
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        _wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZ", "did not stop")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        """Start it, empty, where it was killed."""
        options = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            # The kernel kills it when this process is gone, however it ended.
            ["setpriv", "--pdeathsig", "KILL", self._program, "--port", str(self.port), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )
        _wait_until(self._answers, "did not start", _START_S)

    def close(self) -> None:
        """Kill it and give its port back; more than once does nothing."""
        self.kill()
        self._folder.cleanup()
        self._port.release()

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self._program.name} ended as it started")
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def _wait_until(is_so: Callable[[], bool], otherwise: str, timeout_s: float = 5) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"the server {otherwise}")
        time.sleep(0.02)

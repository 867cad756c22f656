"""A real Mooncake cluster of one node. Where these are used, `mooncake` can be imported."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from support.ports import Port

_START_S = 30


class MooncakeMaster:
    """A master on loopback, and a client that gives it memory: its one node.

    Start it from a thread that outlives it: it ends with that one.

    Attributes
    ----------
    address : str
        ``HOST:PORT``, the same after a restart.
    client
        A MooncakeDistributedStore, set up.
    """

    def __init__(self, segment_bytes: int = 256 << 20) -> None:
        from mooncake.store import MooncakeDistributedStore

        self._ports = Port(), Port()
        self.address = f"127.0.0.1:{self._ports[0].number}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.client: Any = MooncakeDistributedStore()
        # The master may not listen yet.
        until = time.monotonic() + _START_S
        while self.client.setup(
            "127.0.0.1", "P2PHANDSHAKE", segment_bytes, 16 << 20, "tcp", "", self.address
        ):
            assert time.monotonic() < until
            self.client = MooncakeDistributedStore()

    def __enter__(self) -> MooncakeMaster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        self.kill()
        for port in self._ports:
            port.release()

    def start(self) -> None:
        spec = find_spec("mooncake")
        assert spec is not None
        assert spec.submodule_search_locations
        program = Path(spec.submodule_search_locations[0]) / "mooncake_master"
        rpc, metrics = (port.number for port in self._ports)
        options = {"rpc_port": rpc, "metrics_port": metrics}
        options |= dict.fromkeys(("rpc_address", "metrics_host"), "127.0.0.1")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program]
            + [f"--{name}={value}" for name, value in options.items()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def freeze(self) -> None:
        """Stop it (SIGSTOP)."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        until = time.monotonic() + _START_S
        while stat.read_text().rpartition(")")[2].split()[0] not in "TZ":
            assert time.monotonic() < until
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

"""`kvcore bench store` with a round trip that is longer, where the kernel has no netem.

    .venv/bin/python benchmarks/delayed_store.py [ROUND_TRIP_MS [OPTIONS OF kvcore bench store]]

Starts the tests' server, and a proxy in front of it that delays each way by half of the round trip.
The proxy is Python and takes a core: it moves about 1 GB/s, which all contenders share alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.infinistore import InfiniStoreServer, install  # noqa: E402
from support.proxy import Proxy  # noqa: E402


def main(round_trip_ms: float, options: list[str]) -> int:
    installation = install()
    with (
        tempfile.TemporaryDirectory() as folder,
        InfiniStoreServer(installation, prealloc_gib=2) as server,
        Proxy(server.address) as proxy,
    ):
        proxy.delay_ms = round_trip_ms / 2
        python = Path(folder) / "python"
        libraries = installation.environment()["LD_LIBRARY_PATH"]
        real = installation.venv / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH={libraries}\nexec {real} "$@"\n')
        python.chmod(0o755)
        host, port = proxy.address
        command = [str(Path(sys.executable).with_name("kvcore")), "bench", "store"]
        command += [f"infinistore://{host}:{port}", "--compare", "official"]
        return subprocess.run([*command, "--python", str(python), *options]).returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 1.0, sys.argv[2:]))

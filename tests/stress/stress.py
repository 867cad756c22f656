"""Runs `kvcore_stress` against three InfiniStore servers, and injures them meanwhile.

    scripts/stress.sh [SECONDS]     builds it with each sanitizer and runs this

Servers are frozen, killed and started again; the way to one of them is slow, cut, silent or
refused; they have 1 GiB each, which is filled. Where the real server cannot run, there are simple
ones, and the way to each is injured. Prints what `kvcore_stress` counted and what was done to the
servers. Exit status 1 where `kvcore_stress` or a sanitizer has something to say, or where a server
ended that nobody had killed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.fake_server import FakeServer, HonestScript, Reply, Request
from support.infinistore import InfiniStoreServer, NotInstallableError, install
from support.proxy import Proxy

NUM_SERVERS = 3
_END_S = 120  # after the time that was asked for: recovery, and a slow machine
_SIMPLE_VALUES = 2000  # of 160 KB at most


class _SimpleScript(HonestScript):
    """Answers from memory, and forgets what came first, as the real server does when it is full."""

    def __call__(self, request: Request) -> Reply:
        reply = super().__call__(request)
        while len(self.values) > _SIMPLE_VALUES:
            self.values.pop(next(iter(self.values)), None)
        return reply


class Ward:
    """The servers, the way to the last or, of simple ones, to each, and what was done to them."""

    def __init__(self, stack: ExitStack, rng: random.Random) -> None:
        self._rng = rng
        self.done: Counter[str] = Counter()
        self.servers: list[InfiniStoreServer] = []
        self._simple: list[FakeServer] = []
        try:
            installation = install()
        except NotInstallableError as error:
            print(f"stress: simple servers, since {error}", file=sys.stderr)
            self._simple = [
                stack.enter_context(FakeServer(_SimpleScript())) for _ in range(NUM_SERVERS)
            ]
            ends = [server.address for server in self._simple]
        else:
            self.servers = [
                stack.enter_context(InfiniStoreServer(installation)) for _ in range(NUM_SERVERS)
            ]
            ends = [server.address for server in self.servers]
        behind = ends[-1:] if self.servers else ends
        self.proxies = [stack.enter_context(Proxy(end)) for end in behind]
        self.addresses = [*ends[: -len(behind)], *(proxy.address for proxy in self.proxies)]

    def injure(self) -> None:
        """One injury that ends by itself or with `heal`, a second or so."""
        ways: list[Callable[[], None]] = [
            self._slow_way,
            self._cut_way,
            self._silent_way,
            self._refused_way,
            self._dropped_way,
        ]
        if self.servers:
            ways += [self._frozen_server, self._frozen_server, self._killed_server]
        way = self._rng.choice(ways)
        self.done[way.__name__[1:]] += 1
        way()
        for simple in self._simple:
            simple.requests.clear()  # with all that was put
        self._note_deaths()
        time.sleep(self._rng.uniform(0, 0.5))

    def heal(self) -> None:
        for proxy in self.proxies:
            self._make_well(proxy)
        self._note_deaths()

    def _note_deaths(self) -> None:
        for server in self.servers:
            if not server.is_alive():
                self.done["ended by itself"] += 1
                print("stress: a server ended by itself:", server.log()[-2000:], file=sys.stderr)
                server.restart()

    def _frozen_server(self) -> None:
        server = self._rng.choice(self.servers)
        server.freeze()
        time.sleep(self._rng.choice([0.02, 0.2, 0.5, 2.0]))
        server.thaw()

    def _killed_server(self) -> None:
        # The last is kept, so that it is full one day.
        server = self._rng.choice(self.servers[:-1])
        server.kill()
        time.sleep(self._rng.uniform(0, 0.5))
        server.restart()

    def _slow_way(self) -> None:
        proxy = self._rng.choice(self.proxies)
        proxy.delay_ms = self._rng.choice([1.0, 20.0, 400.0])
        time.sleep(0.7)
        self._make_well(proxy)

    def _cut_way(self) -> None:
        proxy = self._rng.choice(self.proxies)
        to_server = self._rng.random() < 0.5
        after = int(10 ** self._rng.uniform(0, 6))
        if to_server:
            proxy.cut_to_server_after = after
        else:
            proxy.cut_to_client_after = after
        time.sleep(0.5)
        self._make_well(proxy)

    def _silent_way(self) -> None:
        proxy = self._rng.choice(self.proxies)
        proxy.freeze()
        time.sleep(self._rng.choice([0.05, 0.5, 1.5]))
        self._make_well(proxy)

    def _refused_way(self) -> None:
        proxy = self._rng.choice(self.proxies)
        proxy.refuse()
        proxy.drop()
        time.sleep(0.5)
        self._make_well(proxy)

    def _dropped_way(self) -> None:
        self._rng.choice(self.proxies).drop()

    @staticmethod
    def _make_well(proxy: Proxy) -> None:
        proxy.delay_ms = 0.0
        proxy.cut_to_server_after = proxy.cut_to_client_after = None
        proxy.thaw()
        proxy.accept()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run kvcore_stress while servers are injured.")
    parser.add_argument("executable", type=Path)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        ward = Ward(stack, random.Random(arguments.seed))
        places = [f"{host}:{port}" for host, port in ward.addresses]
        end = time.monotonic() + arguments.seconds
        process = subprocess.Popen(
            [arguments.executable, str(arguments.seconds), *places], stdout=subprocess.PIPE
        )
        stack.callback(process.kill)
        while time.monotonic() < end and process.poll() is None:
            ward.injure()
        ward.heal()
        try:
            output, _ = process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            print("stress: it does not end", file=sys.stderr)
            return 1
        ward.heal()
        print(output.decode(), end="")
        print(json.dumps({"injuries": ward.done}))
        return int(process.returncode != 0 or ward.done["ended by itself"] > 0)


if __name__ == "__main__":
    sys.exit(main())

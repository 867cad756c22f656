"""A health endpoint: each question is answered by a round trip to the server."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kvcore.stores.round_trip import RoundTrip, RoundTripError, round_trip


class Prober:
    """Makes round trips to one server, one at a time, whoever asks.

    One that does not end is waited for by its own thread and left alone: to close its connection
    could harm the server, and another would meet the same silence.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._lock = threading.Lock()
        self._running: _Probe | None = None

    def probe(self, timeout_s: float) -> RoundTrip:
        """One round trip; who asks while one is under way gets its result.

        Raises
        ------
        RoundTripError, OSError
            TimeoutError after `timeout_s`.
        """
        with self._lock:
            if self._running is None or self._running.ended.is_set():
                self._running = _Probe(*self._address)
            probe = self._running
        if not probe.ended.wait(timeout_s):
            raise TimeoutError(f"the server did not answer within {timeout_s:g} s")
        if isinstance(probe.result, RoundTrip):
            return probe.result
        raise probe.result


class _Probe:
    result: RoundTrip | Exception

    def __init__(self, host: str, port: int) -> None:
        self.ended = threading.Event()
        threading.Thread(target=self._run, args=(host, port), daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        try:
            self.result = round_trip(host, port)
        except (OSError, RoundTripError) as error:
            self.result = error
        self.ended.set()


class HealthServer:
    """``GET /health``: 200 with what each step took, or 503 with what is wrong; as JSON.

    Parameters
    ----------
    host : str
    port : int
        0 for any free one; see `port`.
    prober : Prober
    timeout_s : float
        Of a round trip.
    """

    def __init__(self, host: str, port: int, prober: Prober, timeout_s: float) -> None:
        class Handler(_Handler):
            def probe(self) -> RoundTrip:
                return prober.probe(timeout_s)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # of a client that says nothing

    def probe(self) -> RoundTrip:
        raise NotImplementedError

    def do_GET(self) -> None:
        if self.path.split("?")[0] != "/health":
            self._answer(404, {"error": "there is /health alone"})
            return
        try:
            steps = self.probe()
        except (OSError, RoundTripError) as error:
            self._answer(503, {"ok": False, "error": str(error)})
        else:
            self._answer(200, {"ok": True, **{k: round(v) for k, v in asdict(steps).items()}})

    def _answer(self, status: int, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: an orchestrator asks every few seconds."""

"""A stand-in for an Alertmanager on this machine: it takes alerts and keeps them.

The alerts stay in memory:

    with Receiver() as receiver:
        post(alerts, receiver.url)
        receiver.received  # the alerts, in the order in which they came
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MAX_BYTES = 1 << 20


class Receiver:
    """HTTP server on 127.0.0.1 and a free port that accepts POST /api/v2/alerts while the context is open."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Root address, as it is given to `monitoring.alerts.post`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # of a client that stops talking

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if self.path != "/api/v2/alerts":
                    return self._answer(404, "only /api/v2/alerts is served here")
                if length > MAX_BYTES:
                    return self._answer(413, f"more than {MAX_BYTES} bytes")
                try:
                    alerts = json.loads(self.rfile.read(length))
                    if not all(alert["labels"]["alertname"] for alert in alerts):
                        raise ValueError("empty alertname")
                except (ValueError, KeyError, TypeError) as error:
                    return self._answer(400, f"not a list of alerts: {type(error).__name__}: {error}")
                received.extend(alerts)
                return self._answer(200, "")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: the loop's own output stays readable."""

        return Handler

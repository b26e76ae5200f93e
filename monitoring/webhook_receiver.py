"""A webhook on this machine, for a run of the loop: it takes messages and keeps them in memory.

with Receiver() as receiver:
    post(message, receiver.url)
    receiver.received  # the messages, in the order in which they came
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MAX_BYTES = 1 << 20


class Receiver:
    """HTTP server on 127.0.0.1 and a free port that accepts POST / while the context is open."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, as it is given to `monitoring.webhook.post`."""
        return f"http://127.0.0.1:{self._server.server_port}/"

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
                if self.path != "/":
                    return self._answer(404, "only / is served here")
                if length > MAX_BYTES:
                    return self._answer(413, f"more than {MAX_BYTES} bytes")
                try:
                    message = json.loads(self.rfile.read(length))
                    if not message["text"]:
                        raise ValueError("empty text")
                except (ValueError, KeyError, TypeError) as error:
                    return self._answer(400, f"not a message: {type(error).__name__}: {error}")
                received.append(message)
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

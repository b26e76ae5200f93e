"""Serves the page of experiments: read only, and from what was looked at last, so that nobody's look waits.

    with Watcher(look, every=30) as watcher, serving(watcher, "127.0.0.1", 8088) as url:
        ...

| path | what |
|---|---|
| / | the page |
| /experiments.json | the documents |
| /metrics | Prometheus gauges |
| /healthz | whether the last look is not too old |

Whoever reaches the port can read all of it: it is for one's own machine, or behind something that knows who asks.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import TracebackType
from typing import Any

from typing_extensions import override

from monitoring.experiments.document import View
from monitoring.experiments.gauges import exposition
from monitoring.experiments.page import page

_LATE = 10.0  # looks that may be missing before health says so
_REFRESH = 5.0  # seconds after which a page asks again: it costs nothing but the page
_log = logging.getLogger(__name__)


class Watcher:
    """Looks again and again, in a thread of its own, and keeps what was found.

    Args:
        look: Gives the documents; may take minutes. What it raises is logged, and the last documents stay.
        every: Seconds between two looks.
    """

    def __init__(self, look: Callable[[], Sequence[View]], every: float) -> None:
        self.every = every
        self._look = look
        self._views: Sequence[View] = ()
        self._at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="experiments")

    def __enter__(self) -> Watcher:
        """The first look is over when the block begins; its errors are raised."""
        self._keep(self._look())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()

    @property
    def views(self) -> Sequence[View]:
        """What was found last."""
        return self._views

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._at

    def _keep(self, views: Sequence[View]) -> None:
        self._views, self._at = views, time.monotonic()

    def _run(self) -> None:
        while not self._stopped.wait(self.every):
            try:
                self._keep(self._look())
            except Exception:  # whatever it is, the server stays, and its health says how old the figures are
                _log.exception("the experiments could not be looked at")


@contextmanager
def serving(watcher: Watcher, host: str, port: int) -> Iterator[str]:
    """Serve what a watcher has found; gives the address.

    Args:
        watcher: What looks.
        host: Address to listen at.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    server = _Server((host, port), _handler(watcher, host))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is no fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _handler(watcher: Watcher, host: str) -> type[BaseHTTPRequestHandler]:
    local = _is_local(host)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # of a client that stops talking
        server_version = "mtorl"
        sys_version = ""

        def do_GET(self) -> None:
            if local and not _is_local(_host_of(self.headers.get("Host", ""))):
                # A page of somebody else's whose name was made to point here must not read this one.
                return self._answer(403, "text/plain; charset=utf-8", b"not under this name\n")
            path = self.path.partition("?")[0]
            if path == "/":
                text = page(watcher.views, refresh=min(_REFRESH, watcher.every))
                return self._answer(200, "text/html; charset=utf-8", text.encode())
            if path == "/experiments.json":
                return self._answer(200, "application/json", json.dumps(list(watcher.views)).encode())
            if path == "/metrics":
                return self._answer(200, "text/plain; version=0.0.4; charset=utf-8", exposition(watcher.views))
            if path == "/healthz":
                fresh = watcher.age < _LATE * watcher.every + 60
                words = f"looked {watcher.age:.0f} s ago\n".encode()
                return self._answer(200 if fresh else 503, "text/plain; charset=utf-8", words)
            return self._answer(
                404, "text/plain; charset=utf-8", b"there is /, /experiments.json, /metrics, /healthz\n"
            )

        do_HEAD = do_GET

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
            ):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: a page that refreshes itself would fill the terminal."""

    return Handler


def _host_of(header: str) -> str:
    """The name of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

"""The platform of examples/first-day asks again where its router is busy or a connection is lost."""

from __future__ import annotations

import http.server
import importlib
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.repository import ROOT


class Busy(http.server.ThreadingHTTPServer):
    """A router that answers with these statuses, one after the other; 0: it hangs up."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Busy

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0)
        if not status:
            self.close_connection = True
            return
        content = json.dumps({"predictions": [{"arm": "incumbent"}]}).encode()
        self.send_response(status)
        self.send_header("Retry-After", "0.01")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "first-day"))
    made = importlib.import_module("traffic")
    # Its own clock: threads that other tests have left sleep by the real one.
    monkeypatch.setattr(made, "time", SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda _: None))
    yield made


def asked(traffic: Any, *statuses: int) -> Any:
    with Busy(*statuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return traffic.Router(f"http://127.0.0.1:{server.server_address[1]}").decide({"user_id": "u"})
        finally:
            server.shutdown()


def test_a_router_that_is_busy_or_hangs_up_is_asked_again(traffic: Any) -> None:
    assert asked(traffic, 503, 0, 429, 200) == {"arm": "incumbent"}


@pytest.mark.parametrize("statuses", [(503,) * 5, (400,)])
def test_what_does_not_help_ends_with_a_line(traffic: Any, statuses: tuple[int, ...]) -> None:
    with pytest.raises(SystemExit, match=f"HTTP {statuses[0]} from /v1/models/ads:predict"):
        asked(traffic, *statuses)

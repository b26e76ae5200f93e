"""The adapter of docs/incumbent.md makes an arm of a service that has an answer of its own."""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.repository import ROOT

EXAMPLE = ROOT / "examples" / "first-day"


class Service(BaseHTTPRequestHandler):
    """Answers in its own way, whatever it is asked."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        slot = asked.get("slots", ["search"])[0]
        body = json.dumps({"ad": {"slot": slot, "show": 1}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def at_work(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/ads"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def service() -> Iterator[str]:
    with at_work(Service) as url:
        yield url


def check(url: str) -> str:
    return CliRunner().invoke(app, ["arm", "check", url, "--dataset", "simulator"]).output


def test_the_check_shows_what_was_answered_and_names_the_adapter(service: str) -> None:
    told = check(service)
    assert 'it answered: {"ad": {"slot": "search", "show": 1}}' in told, told
    assert "missing channel and expose" in told and "docs/incumbent.md#it-has-an-answer-of-its-own" in told


def test_with_the_adapter_it_can_be_an_arm(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    adapter: Any = importlib.import_module("adapter")
    monkeypatch.setattr(adapter, "OURS", service)
    handler = importlib.import_module("incumbent_server").Handler
    with at_work(type("Adapter", (handler,), {"answer": staticmethod(adapter.answer)})) as url:
        assert "can be an arm; 0 faults" in check(url)


def test_the_page_shows_the_whole_adapter() -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "incumbent.md").read_text(), re.M | re.S)
    assert (EXAMPLE / "adapter.py").read_text().partition("\n\n")[2] == shown

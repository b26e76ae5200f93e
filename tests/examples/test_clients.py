"""Tests of the example clients: an arm adapter, and a platform that retries requests."""

import importlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.repository import ROOT

EXAMPLE = ROOT / "examples" / "first-day"


class Answers(BaseHTTPRequestHandler):
    """An HTTP server that returns the given statuses in turn and then repeats the last.

    For status 0, the server closes the connection without an answer.
    """

    statuses: ClassVar[list[int]] = [200]

    def body(self, asked: dict[str, Any]) -> Any:
        return {"predictions": [{"arm": "incumbent"}]}

    def do_POST(self) -> None:
        body = json.dumps(self.body(json.loads(self.rfile.read(int(self.headers["content-length"]))))).encode()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("retry-after", "0.01")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Service(Answers):
    def body(self, asked: dict[str, Any]) -> Any:
        return {"ad": {"slot": asked.get("slots", ["search"])[0], "show": 1}}


@contextmanager
def at_work(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module


def check(url: str) -> str:
    return CliRunner().invoke(app, ["arm", "check", f"{url}/ads", "--dataset", "simulator"]).output


def test_with_the_adapter_a_service_can_be_an_arm(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, handler = example("adapter"), example("incumbent_server").Handler
    with at_work(Service) as service:
        assert "missing field 'channel'" in check(service)
        monkeypatch.setattr(adapter, "OURS", f"{service}/ads")
        with at_work(type("Adapter", (handler,), {"answer": staticmethod(adapter.answer)})) as url:
            assert "can be an arm: 0 faults" in check(url)


def test_the_page_shows_the_whole_adapter() -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "incumbent.md").read_text(), re.M | re.S)
    assert (EXAMPLE / "adapter.py").read_text().partition("\n\n")[2] == shown


@pytest.mark.parametrize("statuses", [(503, 0, 429, 200), (503,), (400, 200)])
def test_the_platform_retries_if_its_router_is_busy_or_disconnects(
    example: Any, monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...]
) -> None:
    traffic = example("traffic")
    # Replace `sleep` in this module only, because threads of other tests need the real one.
    monkeypatch.setattr(traffic, "time", SimpleNamespace(time=time.time, sleep=lambda _: None))
    with at_work(type("Busy", (Answers,), {"statuses": list(statuses)})) as url:
        router = traffic.Router(url)
        if len(statuses) == 4:
            assert router.decide({"user_id": "u"}) == {"arm": "incumbent"}
        else:
            with pytest.raises(SystemExit, match=f"HTTP {statuses[0]} from /v1/models/ads:predict"):
                router.decide({"user_id": "u"})

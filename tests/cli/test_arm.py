"""`mtorl arm check` ends with a code that a script can use."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from cli.main import app


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"]
        body = json.dumps([{"channel": item["candidates"][0], "expose": True} for item in items]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/decide"
    server.shutdown()
    server.server_close()
    thread.join()


def check(url: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["arm", "check", url, "--dataset", "simulator"])
    return answer.exit_code, answer.output


def test_exit_codes(endpoint: str) -> None:
    code, text = check(endpoint)
    assert code == 0 and "can be an arm; 0 faults, 4 notes" in text and "note   no propensity" in text, text
    code, text = check("http://127.0.0.1:9/decide")
    assert code == 1 and "no arm yet; 1 faults" in text and text.startswith("fault"), text
    code, text = check("my-policy")
    assert code == 2 and "'my-policy' is not an http(s) URL" in text, text

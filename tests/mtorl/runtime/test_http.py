"""Tests that the HTTP client has timeouts and reports every bad response as an OSError."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mtorl.runtime import http
from mtorl.runtime.http import StatusError, send_request

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-leads: true\r\n\r\nok"


class Server:
    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.answer, self.asked = listener, OK, b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as sent:
                head = b"".join(iter(sent.readline, b"\r\n"))
                length = re.search(rb"Content-Length: (\d+)", head)
                self.asked = head + (sent.read(int(length[1])) if length else b"")
                connection.sendall(self.answer)


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener)


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.listener.getsockname()[1]}/a/b?c=d"


def test_requests_and_responses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = send_request(url(server), seconds=10)
    assert server.asked.startswith(b"GET /a/b?c=d HTTP/1.1\r\n") and (answer.status, answer.content) == (200, b"ok")
    assert answer.headers["x-leads"] == "true"
    send_request(url(server), {"n": [1]}, seconds=10)
    assert server.asked.startswith(b"POST ") and server.asked.endswith(b'\r\n{"n": [1]}')
    send_request(url(server), seconds=10, method="PUT")
    assert server.asked.startswith(b"PUT ")


def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of a Unix socket has a length limit, so use a relative path.
    monkeypatch.chdir(tmp_path)
    with socket.create_server("Models", family=socket.AF_UNIX) as listener:
        server = Server(listener)
        assert send_request(f"{http.UNIX}://{quote('./Models', safe='')}/v2", seconds=10).content == b"ok"
        assert server.asked.startswith(b"GET /v2 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xffnot http at all\r\n\r\n",
        OK.replace(b"2\r\n", b"3\r\n"),
        OK.replace(b"content-length: 2", b"transfer-encoding: chunked").replace(b"ok", b"5\r\nhalf"),
        OK.replace(b"content-length: 2", b"content-length: 5000000") + b"x" * 4_999_998,
    ],
    ids=["nothing", "no HTTP", "half", "half a chunk", "too much"],
)
def test_an_incomplete_response_is_an_error(server: Server, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(OSError):
        send_request(url(server), seconds=10)


def test_a_refusal_has_its_content_and_https_is_never_sent_unencrypted(server: Server) -> None:
    with pytest.raises(OSError):
        send_request(url(server).replace("http:", "https:"), seconds=10)
    assert server.asked == b""
    server.answer = OK.replace(b"200", b"302")
    with pytest.raises(StatusError, match="HTTP 302") as caught:
        send_request(url(server), seconds=10)
    assert caught.value.content == b"ok"


@pytest.mark.parametrize("drip", [lambda c: None, lambda c: c.sendall(b"x")], ids=["silent", "slow"])
def test_a_silent_or_slow_server_times_out(drip: Callable[[socket.socket], None]) -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(OK.replace(b"content-length: 2", b"content-length: 100000"))
            while not over.wait(0.02):
                drip(connection)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TimeoutError):
            send_request(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.2)
        over.set()

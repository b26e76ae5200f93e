import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from serving.router.flow import arm_client
from serving.router.flow.arm_client import ArmClient, ArmError

Talk = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nx-model-name: m\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def arm(*talks: Talk, path: Path | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """Start a server whose n-th connection runs the n-th function; yields its URL and received data."""
    if path is None:
        listening = socket.create_server(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{listening.getsockname()[1]}"
    else:
        listening = socket.create_server(str(path), family=socket.AF_UNIX)
        place = f"http+unix://{quote(str(path), safe='')}"
    asked: list[bytes] = []

    def serve(talk: Talk, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60)
            talk(_Recorded(connection, asked))  # type: ignore[arg-type]

    def accept() -> None:
        with suppress(OSError):
            for talk in talks:
                connection, _ = listening.accept()
                threading.Thread(target=serve, args=(talk, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{place}/decide?x=1", asked
    finally:
        listening.close()


class _Recorded:
    def __init__(self, connection: socket.socket, asked: list[bytes]) -> None:
        self.sendall, self._recv, self._asked = connection.sendall, connection.recv, asked

    def recv(self, size: int) -> bytes:
        self._asked.append(self._recv(size))
        return self._asked[-1]


def question(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\nbody" not in got:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError
        got += piece
    return got


def answering(*answers: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        for answer in answers:
            question(connection)
            connection.sendall(answer)

    return talk


def post(client: ArmClient, url: str, seconds: float = 10.0) -> tuple[int, bytes]:
    status, _, body = client.post(url, b"body", {"content-type": "application/json"}, seconds)
    return status, body


def test_a_connection_is_reused() -> None:
    client = ArmClient()
    pieces = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
    with arm(answering(OK, pieces, OK)) as (url, asked):
        assert [post(client, url) for _ in range(3)] == [(200, b"ok")] * 3
        assert b"".join(asked).count(b"POST /decide?x=1 HTTP/1.1\r\n") == 3
    client.close()


@pytest.mark.parametrize(
    ("answer", "idle_seconds"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", 30.0),
        (b"HTTP/1.0 200 OK\r\n\r\nok", 30.0),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 30.0),
        # With 0 s, each connection counts as idle for too long.
        (OK, 0.0),
    ],
)
def test_a_new_connection_for_each_request_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, idle_seconds: float
) -> None:
    monkeypatch.setattr(arm_client, "_IDLE_SECONDS", idle_seconds)
    client = ArmClient()
    with arm(answering(answer), answering(answer)) as (url, _):
        assert [post(client, url) for _ in range(2)] == [(200, b"ok")] * 2


def test_idle_connections_that_the_arm_has_closed_are_no_fault() -> None:
    client, together = ArmClient(), threading.Barrier(3, timeout=60)

    def talk(connection: socket.socket) -> None:
        question(connection)
        together.wait()  # so that three connections are open
        connection.sendall(OK)

    with arm(talk, talk, talk, answering(OK)) as (url, _):
        with ThreadPoolExecutor(3) as callers:
            assert [*callers.map(lambda _: post(client, url), range(3))] == [(200, b"ok")] * 3
        time.sleep(0.1)
        assert post(client, url) == (200, b"ok")


def test_unrequested_data_is_not_the_answer_to_the_next_request() -> None:
    client = ArmClient()
    with arm(answering(OK + OK.replace(b"ok", b"no")), answering(OK)) as (url, _):
        assert post(client, url) == (200, b"ok")
        time.sleep(0.05)
        assert post(client, url) == (200, b"ok")


def test_an_interim_answer_is_a_fault_and_the_next_request_gets_its_own_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
    client = ArmClient()
    with arm(answering(hints), answering(OK)) as (url, _):
        with pytest.raises(ArmError) as error:
            client.post(url, b"body", {}, 10.0)
        assert error.value.cause == "status"
        assert client.post(url, b"body", {}, 10.0)[0] == 200


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x"),
    ],
)
def test_an_answer_times_out_even_if_data_keeps_arriving(head: bytes, piece: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        question(connection)
        connection.sendall(head)
        for _ in range(4000):
            connection.sendall(piece)
            time.sleep(0.01)

    client = ArmClient()
    with arm(talk) as (url, _):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            post(client, url, seconds=0.1)
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ntoo short",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200,
        b"",
    ],
)
def test_a_garbage_answer_is_an_error_and_its_connection_is_not_reused(answer: bytes) -> None:
    client = ArmClient()
    with arm(answering(answer), answering(answer), answering(OK)) as (url, _):
        for _ in range(2):
            with pytest.raises(ArmError, match="http://127"):
                post(client, url)
        assert post(client, url) == (200, b"ok")


@pytest.mark.parametrize("head", [b"content-length: 101\r\n\r\n", b"\r\n"], ids=["all of it", "without an end"])
def test_an_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(arm_client, "_MOST_BYTES", 100)
    with (
        arm(answering(b"HTTP/1.1 200 OK\r\n" + head + b" " * 101)) as (url, _),
        pytest.raises(ArmError, match="100 bytes"),
    ):
        post(ArmClient(), url)


def test_a_password_is_sent_to_the_arm_and_is_in_no_message() -> None:
    client = ArmClient()
    with arm(answering(OK, b"rubbish\r\n\r\n")) as (url, asked):
        secret = url.replace("//", "//user:s%40cret@")
        assert post(client, secret) == (200, b"ok")
        given = b64encode(b"user:s@cret").decode().encode()
        assert b"authorization: Basic " + given in b"".join(asked)
        with pytest.raises(ArmError) as error:
            post(client, secret)
        assert "cret" not in str(error.value) and url in str(error.value)


def test_an_arm_on_a_unix_socket(tmp_path: Path) -> None:
    client, path = ArmClient(), tmp_path / "Models"
    with arm(answering(OK, OK), lambda connection: time.sleep(1), path=path) as (url, _):
        assert [post(client, url) for _ in range(2)] == [(200, b"ok")] * 2
        client.close()
        with pytest.raises(TimeoutError):
            post(client, url, seconds=0.05)
    path.unlink()
    with pytest.raises(ArmError):
        post(client, url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "https://127.0.0.1:9/x", "http://no-such-host.invalid/x"])
def test_an_unreachable_arm_is_an_error(url: str) -> None:
    with pytest.raises(ArmError):
        post(ArmClient(), url)

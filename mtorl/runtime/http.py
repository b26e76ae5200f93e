"""Sends HTTP requests to servers on the same host or cluster; ignores proxies, which can't reach these servers.

send_request("http://127.0.0.1:8080/health/ready", seconds=5).content
send_request("http+unix://%2Frun%2Fmodels/v2/health/ready", seconds=2)          # on a Unix socket
send_request(url, {"instances": [item]}, seconds=10)                            # POST, as JSON
"""

import json
import socket
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

UNIX = "http+unix"
_MOST_BYTES = 4 << 20  # largest size of a response


class StatusError(OSError):
    """A server responded with a status other than 2xx; `content` is the body of the response."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.content = content


class Answer(NamedTuple):
    """A response with a 2xx status."""

    status: int
    headers: HTTPMessage
    content: bytes


def send_request(url: str, body: object = None, *, seconds: float, method: str | None = None) -> Answer:
    """Send a request, with `body` as JSON if there is one. The host of an `http+unix` URL is the encoded socket path.

    The limit of `seconds` applies to the connection, to each wait for data, and to reading the whole response.

    StatusError: the status is not 2xx. OSError: the response is late, incomplete, not HTTP, or larger than 4 MiB.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", UNIX):  # an https request must not be sent unencrypted
        raise OSError(f"{url}: only http:// and {UNIX}:// are supported")
    with closing(HTTPConnection(parts.hostname or "localhost", parts.port, timeout=seconds)) as connection:
        if parts.scheme == UNIX:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(seconds)
            connection.sock.connect(unquote(parts.netloc))
        content = None if body is None else json.dumps(body).encode()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        method = method or ("GET" if body is None else "POST")
        try:
            connection.request(method, target, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = _whole(answer, seconds)
        except HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
    if not 200 <= answer.status < 300:
        raise StatusError(answer.status, found)
    return Answer(answer.status, answer.headers, found)


def _whole(answer: HTTPResponse, seconds: float) -> bytes:
    until, content = time.monotonic() + seconds, b""
    while part := answer.read1(_MOST_BYTES):  # returns what has arrived; read() could block for ever
        content += part
        if len(content) > _MOST_BYTES or time.monotonic() > until:
            raise TimeoutError(f"the response is incomplete after {len(content):,} bytes")
    if answer.length:  # the server closed the connection before the end of the response
        raise ConnectionError(f"the response ended {answer.length:,} bytes early")
    return content

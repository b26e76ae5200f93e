"""Sends HTTP requests to servers on the same computer or in the same cluster."""

import json
import socket
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

UNIX = "http+unix"
_MOST_BYTES = 4 << 20  # largest accepted response, 4 MiB


class StatusError(OSError):
    """A response with a status other than 2xx, and with the body `content`."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.content = content


class Answer(NamedTuple):
    """A response with a 2xx status."""

    status: int
    headers: HTTPMessage
    content: bytes


def send_request(url: str, body: object = None, *, seconds: float, method: str | None = None) -> Answer:
    """Send a request and return the response.

    Args:
        url: An http:// URL, or an http+unix:// URL whose host is the percent-encoded path of a Unix socket.
        body: Content to send as JSON. None sends a GET request.
        seconds: Time limit for the connection, for each wait, and for the whole response.

    Raises:
        StatusError: The status of the response is not 2xx.
        OSError: The response is late, incomplete, not HTTP, or larger than 4 MiB.
    """
    parts = urlsplit(url)
    # An https URL must not be requested without encryption.
    if parts.scheme not in ("http", UNIX):
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
    # read1() returns as soon as some data have arrived, so the time limit can be checked.
    while part := answer.read1(_MOST_BYTES):
        content += part
        if len(content) > _MOST_BYTES or time.monotonic() > until:
            raise TimeoutError(f"the response is incomplete after {len(content):,} bytes")
    # The server has closed the connection early.
    if answer.length:
        raise ConnectionError(f"the response ended {answer.length:,} bytes early")
    return content

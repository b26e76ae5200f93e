"""Requests over HTTP to servers of this machine or cluster; no proxy, since none could reach them.

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
_MOST_BYTES = 4 << 20  # of an answer


class StatusError(OSError):
    """A server answers with another status than 2xx."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.content = content


class Answer(NamedTuple):
    """An answer with a status of 2xx."""

    status: int
    headers: HTTPMessage
    content: bytes


def send_request(url: str, body: object = None, *, seconds: float, method: str | None = None) -> Answer:
    """Send a request without a body, or with one as JSON; `http+unix` has the encoded path of a socket for the host.

    The limit of `seconds` is for the connection, for each wait for the answer, and for its whole content.

    OSError: no answer in time, half an answer, one that is not HTTP, or more than 4 MiB; StatusError: not a 2xx status.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", UNIX):  # a request that is meant to be encrypted must not go out in clear
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
    while part := answer.read1(_MOST_BYTES):  # what has come, since waiting for all of it may have no end
        content += part
        if len(content) > _MOST_BYTES or time.monotonic() > until:
            raise TimeoutError(f"after {len(content):,} bytes the answer has not ended")
    if answer.length:  # the end of the connection is not that of the answer
        raise ConnectionError(f"the answer ended {answer.length:,} bytes early")
    return content

"""HTTP client for the arms: keep-alive connections, one deadline for a whole answer, and a size limit."""

import contextlib
import io
import select
import socket
import ssl
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cache
from http.client import HTTPException, HTTPMessage, HTTPResponse, IncompleteRead
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from typing_extensions import override

from mtorl.runtime.http import UNIX
from serving.router.flow.arm_answers import ArmError

_MOST_BYTES = 8 * 1024**2  # of an answer
_IDLE_SECONDS = 30.0  # until a connection is not used again: its name may have another address by then
_PIECE = 65_536


class ArmClient:
    """Posts to arms; for several threads."""

    def __init__(self) -> None:
        self._free: defaultdict[str, deque[_Connection]] = defaultdict(deque)  # by server, the last one used at the end

    def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> tuple[int, HTTPMessage, bytes]:
        """Status, headers and body of the answer; raises ArmError, or TimeoutError after `seconds`."""
        until, place = monotonic() + seconds, _split(url)
        free = self._free[f"{place.scheme}://{place.netloc}"]
        connection = _usable(free)
        for again in (connection is not None, False):
            try:
                connection = connection or _Connection(place, until)
                response, answer = connection.post(body, headers, place, until)
            except BaseException as error:
                if connection is not None:
                    connection.close()
                # The server closed an idle connection as the request was sent: retry once, on a new one.
                if again and isinstance(error, ConnectionError):
                    connection = None
                    continue
                if isinstance(error, HTTPException | OSError | ValueError) and not isinstance(error, TimeoutError):
                    raise ArmError(f"{shown(url)}: {type(error).__name__}: {error}", "unreachable") from error
                raise
            if response.will_close:
                connection.close()
            else:
                free.append(connection)
            return response.status, response.headers, answer
        raise AssertionError

    def close(self) -> None:
        """Close idle connections."""
        for free in self._free.values():
            while free:
                free.pop().close()


def shown(url: str) -> str:
    """A URL without its user name and password."""
    return _split(url)._replace(netloc=_host(_split(url))).geturl()


class _Connection:
    """A connection with a deadline for a whole answer: http.client has a timeout for each piece of it.

    http.client would also send the head alone, for which a server would wake up twice. Here head and body go together.
    """

    def __init__(self, place: SplitResult, until: float) -> None:
        if place.scheme == UNIX:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.settimeout(_left(until))
                self._socket.connect(unquote(place.netloc))
            except OSError:
                self._socket.close()
                raise
        else:
            port = place.port or (443 if place.scheme == "https" else 80)
            self._socket = socket.create_connection((place.hostname, port), _left(until))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.scheme == "https":
                self._socket = _trusted().wrap_socket(self._socket, server_hostname=place.hostname)
        self._until = until
        self._used = monotonic()

    @property
    def usable(self) -> bool:
        """Whether it was used lately, and nothing was received since, not even the end of the connection."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return monotonic() - self._used < _IDLE_SECONDS and not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def post(
        self, body: bytes, headers: Mapping[str, str], place: SplitResult, until: float
    ) -> tuple[HTTPResponse, bytes]:
        self._until = until
        host = "localhost" if place.scheme == UNIX else _host(place)
        lines = [
            f"POST {place.path or '/'}{'?' * bool(place.query)}{place.query} HTTP/1.1",
            *(f"{name}: {value}" for name, value in {"host": host, **_authorization(place), **headers}.items()),
            f"content-length: {len(body)}\r\n\r\n",
        ]
        self._socket.settimeout(_left(until))
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + body)
        response = HTTPResponse(self, method="POST")  # type: ignore[arg-type]  # it has what is called
        response.begin()
        if response.status < 200:  # else what comes behind it would answer the next question
            raise ArmError(f"{shown(place.geturl())}: HTTP {response.status} is no answer", "status")
        answer = bytearray()
        while piece := response.read1(_PIECE):
            answer += piece
            if len(answer) > _MOST_BYTES:
                raise ArmError(f"{shown(place.geturl())}: the answer is larger than {_MOST_BYTES} bytes", "form")
            if response.length == 0:
                break
        if response.length:
            raise IncompleteRead(bytes(answer), response.length)
        response.close()
        self._used = monotonic()
        return response, bytes(answer)

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def receive_into(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._until))
        return self._socket.recv_into(buffer)


class _Reader(io.RawIOBase):
    def __init__(self, of: _Connection) -> None:
        self._of = of

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._of.receive_into(buffer)


def _usable(free: deque[_Connection]) -> _Connection | None:
    """A connection that can be used again; the others are closed."""
    with contextlib.suppress(IndexError):
        while True:
            connection = free.pop()
            if connection.usable:
                return connection
            connection.close()
    return None


@cache
def _authorization(place: SplitResult) -> dict[str, str]:
    if place.username is None or place.scheme == UNIX:
        return {}
    given = f"{unquote(place.username)}:{unquote(place.password or '')}"
    return {"authorization": f"Basic {b64encode(given.encode()).decode()}"}


def _host(place: SplitResult) -> str:
    return place.netloc.rpartition("@")[2]


def _left(until: float) -> float:
    if (left := until - monotonic()) <= 0:
        raise TimeoutError("no answer in time")
    return left


@cache
def _split(url: str) -> SplitResult:
    return urlsplit(url)


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()

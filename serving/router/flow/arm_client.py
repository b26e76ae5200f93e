"""HTTP client for the arms: keep-alive connections, one deadline for a whole answer, and a size limit."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection, IncompleteRead
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
            connection = connection or _Connection(place)
            try:
                answer = connection.post(place, body, headers, until)
            except BaseException as error:
                connection.close()
                # The server closed an idle connection as the request was sent: retry once, on a new one.
                if again and isinstance(error, ConnectionError):
                    connection = None
                    continue
                if isinstance(error, HTTPException | OSError | ValueError) and not isinstance(error, TimeoutError):
                    raise ArmError(f"{shown(url)}: {type(error).__name__}: {error}", "unreachable") from error
                raise
            if connection.open:
                free.append(connection)
            return answer
        raise AssertionError

    def close(self) -> None:
        """Close idle connections."""
        for free in self._free.values():
            while free:
                free.pop().close()


def shown(url: str) -> str:
    """A URL without its user name and password."""
    place = _split(url)
    return place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()


class _OnSocket(HTTPConnection):
    """A connection to a Unix socket, whose path is the host of the URL."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Bounded:
    """A socket with a deadline for a whole answer: http.client reads it line by line, each with a timeout of its own.

    http.client also sends the head alone, for which a server would wake up twice. Here head and body go together.
    """

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self.until = until
        self._unsent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self._unsent.append(data)

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        question = b"".join(self._unsent)
        self._unsent.clear()
        self._sock.settimeout(_left(self.until))
        self._sock.sendall(question)
        return io.BufferedReader(_Reader(self, self._sock))

    def silent(self) -> bool:
        """Whether nothing was received, not even the end of the connection."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, of: _Bounded, sock: socket.socket) -> None:
        self._of = of
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until the answer is read

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._of.until))
        return self._raw.readinto(buffer)

    @override
    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection:
    def __init__(self, place: SplitResult) -> None:
        self._http: HTTPConnection
        if place.scheme == UNIX:
            self._http = _OnSocket(unquote(place.netloc))
        elif place.scheme == "https":
            self._http = HTTPSConnection(place.hostname or "", place.port, context=_trusted())
        else:
            self._http = HTTPConnection(place.hostname or "", place.port)
        self._secret = _authorization(place)
        self._bounded: _Bounded | None = None
        self._used = monotonic()

    @property
    def open(self) -> bool:
        return self._http.sock is not None

    @property
    def usable(self) -> bool:
        lately = monotonic() - self._used < _IDLE_SECONDS
        return lately and self._bounded is not None and self._bounded.silent()

    def close(self) -> None:
        self._http.close()

    def post(
        self, place: SplitResult, body: bytes, headers: Mapping[str, str], until: float
    ) -> tuple[int, HTTPMessage, bytes]:
        if self._bounded is None:
            self._http.timeout = _left(until)
            self._http.connect()
            self._bounded = _Bounded(self._http.sock, until)
            self._http.sock = self._bounded  # it has what http.client calls
        self._bounded.until = until
        self._http.request(
            "POST", f"{place.path or '/'}{'?' * bool(place.query)}{place.query}", body, {**self._secret, **headers}
        )
        response = self._http.getresponse()
        answer = bytearray()
        while piece := response.read1(_PIECE):
            answer += piece
            if len(answer) > _MOST_BYTES:
                raise ArmError(f"{shown(place.geturl())}: the answer is larger than {_MOST_BYTES} bytes", "form")
            if response.length == 0:
                break
        if response.length:
            raise IncompleteRead(bytes(answer), response.length)
        response.close()  # it was read to its end: the connection can be used again
        self._used = monotonic()
        return response.status, response.headers, bytes(answer)


def _usable(free: deque[_Connection]) -> _Connection | None:
    """A connection that can be used again; the others are closed."""
    with contextlib.suppress(IndexError):
        while True:
            connection = free.pop()
            if connection.usable:
                return connection
            connection.close()
    return None


def _authorization(place: SplitResult) -> dict[str, str]:
    if place.username is None or place.scheme == UNIX:
        return {}
    given = f"{unquote(place.username)}:{unquote(place.password or '')}"
    return {"authorization": f"Basic {b64encode(given.encode()).decode()}"}


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

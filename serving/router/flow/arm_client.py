"""HTTP to the arms: connections that stay open, and a limit to how long and how large an answer may be."""

from __future__ import annotations

import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection, IncompleteRead
from time import monotonic
from urllib.parse import SplitResult, unquote, urlsplit

from typing_extensions import override

from mtorl.experiment.arm import UNIX
from serving.router.flow.arm_answers import ArmError

_MOST_BYTES = 8 * 1024**2  # of an answer: an arm may be anybody's program, and memory is everybody's
_IDLE_SECONDS = 30.0  # until a connection is not used again: a name may lead elsewhere by then
_PIECE = 65_536


class ArmClient:
    """Posts to arms; may be used by several threads."""

    def __init__(self) -> None:
        self._free: defaultdict[str, deque[_Connection]] = defaultdict(deque)  # by server, the last one used at the end

    def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> tuple[int, HTTPMessage, bytes]:
        """Status, headers and body of the answer.

        Args:
            url: Whose.
            body: What is sent.
            headers: With it.
            seconds: How long the answer may take.

        Raises:
            ArmError: There is none, or it is too large.
            TimeoutError: It takes longer.
        """
        until = monotonic() + seconds
        place = _split(url)
        free = self._free[f"{place.scheme}://{place.netloc}"]
        for last in (False, True):
            connection = _fresh_enough(free) or _Connection(place)
            try:
                answer = connection.post(place, body, headers, until)
            except BaseException as error:
                connection.close()
                # The arm closed the connection while it was idle: a new one may work. A refused connection will not.
                if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError) and not last:
                    continue
                if isinstance(error, HTTPException | OSError | ValueError) and not isinstance(error, TimeoutError):
                    raise ArmError(f"{url}: {type(error).__name__}: {error}", "unreachable") from error
                raise
            if connection.open:
                free.append(connection)
            return answer
        raise AssertionError

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for free in self._free.values():
            while free:
                free.pop().close()


class _OnSocket(HTTPConnection):
    """A connection to a Unix socket, whose path takes the host's place in the URL."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Connection:
    def __init__(self, place: SplitResult) -> None:
        self._http: HTTPConnection
        if place.scheme == UNIX:
            self._http = _OnSocket(unquote(place.netloc))
        elif place.scheme == "https":
            self._http = HTTPSConnection(place.hostname or "", place.port, context=_trusted())
        else:
            self._http = HTTPConnection(place.hostname or "", place.port)
        self.used = monotonic()

    @property
    def open(self) -> bool:
        return self._http.sock is not None

    def close(self) -> None:
        self._http.close()

    def post(
        self, place: SplitResult, body: bytes, headers: Mapping[str, str], until: float
    ) -> tuple[int, HTTPMessage, bytes]:
        if not self.open:
            self._http.timeout = _left(until)
            self._http.connect()
        self._http.sock.settimeout(_left(until))
        self._http.request("POST", f"{place.path or '/'}{'?' * bool(place.query)}{place.query}", body, headers)
        sock = self._http.sock  # the answer may say that the connection ends with it
        response = self._http.getresponse()
        answer = bytearray()
        while piece := response.read1(_PIECE):
            answer += piece
            if len(answer) > _MOST_BYTES:
                raise ArmError(f"{place.geturl()}: the answer is larger than {_MOST_BYTES} bytes", "form")
            if response.length == 0:
                break
            sock.settimeout(_left(until))
        if response.length:
            raise IncompleteRead(bytes(answer), response.length)
        response.close()  # it was read to its end: the connection can have another question
        self.used = monotonic()
        return response.status, response.headers, bytes(answer)


def _fresh_enough(free: deque[_Connection]) -> _Connection | None:
    """A connection that was in use lately; the others are closed."""
    try:
        connection = free.pop()
    except IndexError:
        return None
    if monotonic() - connection.used < _IDLE_SECONDS:
        return connection
    connection.close()
    return _fresh_enough(free)


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

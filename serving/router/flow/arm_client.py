"""HTTP client for the arms, which limits the time and the size of an answer."""

import contextlib
import select
import socket
import ssl
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cache
from time import monotonic
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

from mtorl.log.records import FallbackReason
from mtorl.runtime.http import UNIX

_MOST_BYTES = 8 * 1024**2  # largest answer, including its headers
_IDLE_SECONDS = 30.0  # older connections are closed: the host's address may have changed
_PIECE = 65_536


Answer = tuple[int, Mapping[str, str], bytes]


class ArmError(RuntimeError):
    """Raised if an arm gives no valid decision. `cause` is a code for metrics."""

    def __init__(self, text: str, cause: str, reason: FallbackReason = "model_error") -> None:
        super().__init__(text)
        self.cause = cause
        self.reason = reason


class ArmClient:
    """A thread-safe client that posts requests to arms."""

    def __init__(self) -> None:
        self._free: defaultdict[str, deque[_Connection]] = defaultdict(deque)  # server -> free connections, newest last

    def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """Post a body; returns the status, headers (lower-case names) and body. Raises ArmError or TimeoutError."""
        until, place = monotonic() + seconds, urlsplit(url)
        free = self._free[f"{place.scheme}://{place.netloc}"]
        lines = [_head(url), *(f"{name}: {value}" for name, value in headers.items()), f"content-length: {len(body)}"]
        request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
        try:
            if (kept := _usable(free)) is not None:
                # The server may just have closed the kept connection.
                with contextlib.suppress(ConnectionError):
                    return _post(kept, request, until, free)
            return _post(_Connection(place, until), request, until, free)
        except TimeoutError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, OSError, ValueError) as error:
            raise ArmError(f"{shown(url)}: {type(error).__name__}: {error}", "unreachable") from error

    def close(self) -> None:
        """Close idle connections."""
        for free in self._free.values():
            while free:
                free.pop().close()


def shown(url: str) -> str:
    """Return a URL without user name and password."""
    place = urlsplit(url)
    return place._replace(netloc=_host(place)).geturl()


class _Parsed:
    """The part of an HTTP answer received so far."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = self.keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data

    @property
    def ends_with_the_connection(self) -> bool:
        return self.status > 0 and not self.headers.keys() & {"content-length", "transfer-encoding"}

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        if not self.complete:
            self.body += piece

    def on_message_complete(self) -> None:
        self.keeps_alive = not self.complete and self._parser.should_keep_alive()  # False after a second answer
        self.complete = True


class _Connection:
    """A connection to an arm, with a deadline for the whole answer."""

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
        self._used = monotonic()

    @property
    def usable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return monotonic() - self._used < _IDLE_SECONDS and not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def post(self, request: bytes, until: float) -> _Parsed:
        self._socket.settimeout(_left(until))
        self._socket.sendall(request)
        parsed, size = _Parsed(), 0
        while not parsed.complete:
            self._socket.settimeout(_left(until))
            if not (piece := self._socket.recv(_PIECE)):
                if not size:
                    raise ConnectionResetError("the server closed the connection without an answer")
                if not parsed.ends_with_the_connection:
                    raise ValueError("the server closed the connection before its answer was complete")
                break
            size += len(piece)
            if size > _MOST_BYTES:
                raise ArmError(f"the answer is larger than {_MOST_BYTES} bytes", "form")
            parsed.feed(piece)
        if parsed.status < 200:  # the next request would read the final answer
            raise ArmError(f"HTTP {parsed.status} is not a final answer", "status")
        self._used = monotonic()
        return parsed


def _usable(free: deque[_Connection]) -> _Connection | None:
    """Return a usable connection, if any, and close the others."""
    with contextlib.suppress(IndexError):
        while not (connection := free.pop()).usable:
            connection.close()
        return connection
    return None


def _post(connection: _Connection, request: bytes, until: float, free: deque[_Connection]) -> Answer:
    try:
        parsed = connection.post(request, until)
    except BaseException:
        connection.close()
        raise
    if parsed.keeps_alive:
        free.append(connection)
    else:
        connection.close()
    return parsed.status, parsed.headers, bytes(parsed.body)


@cache
def _head(url: str) -> str:
    place = urlsplit(url)
    target = f"{place.path or '/'}{'?' * bool(place.query)}{place.query}"
    lines = [f"POST {target} HTTP/1.1", f"host: {'localhost' if place.scheme == UNIX else _host(place)}"]
    if place.username is not None and place.scheme != UNIX:
        given = f"{unquote(place.username)}:{unquote(place.password or '')}"
        lines.append(f"authorization: Basic {b64encode(given.encode()).decode()}")
    return "\r\n".join(lines)


def _host(place: SplitResult) -> str:
    return place.netloc.rpartition("@")[2]


def _left(until: float) -> float:
    if (left := until - monotonic()) <= 0:
        raise TimeoutError("no answer in time")
    return left


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()

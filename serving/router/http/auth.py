"""Authenticates callers, by a token or by a header of the proxy in front.

```yaml
auth: {kind: token, file: /run/secrets/mtorl/token}           # Authorization: Bearer ...; each line is a valid token
auth: {kind: header, name: x-client-identity, values: [ads]}  # set by a proxy that ends mTLS and drops a caller's own
auth: {kind: none}                                            # only where nobody else can reach the port
```

The setting has no default: a router without authentication must say so in its file. Tokens are read again when their
file changes, so that a Secret is rotated without a restart: write the new line first, remove the old one later.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.router.ops.settings import HeaderAuth, NoAuth, SettingsError, TokenAuth

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]
Scheme = Mapping[str, str] | None
"""A security scheme of OpenAPI; None: there is no authentication."""
BEARER: Scheme = {"type": "http", "scheme": "bearer"}
_SHORTEST_TOKEN = 16  # characters


class Everybody:
    """`kind: none`: admits every request; `hint` of this and the other classes is for refused callers."""

    hint = ""
    scheme: Scheme = None

    def admits(self, headers: Headers) -> bool:
        """True for every request."""
        return True


class Tokens:
    """`kind: token`: admits requests with a token of the file; raises SettingsError if the file has no usable one."""

    hint = "send Authorization: Bearer with a valid token"
    scheme: Scheme = BEARER

    def __init__(self, file: Path) -> None:
        self._file = file
        self._version: tuple[int, int] | None = None
        self._tokens: tuple[bytes, ...] = ()
        self._refresh()
        if not self._tokens:
            raise SettingsError(f"auth.file: {file} holds no token of at least {_SHORTEST_TOKEN} characters")

    def _refresh(self) -> None:
        """Read the file if it changed. A file that is gone or empty is ignored: it may be a half-done rotation."""
        try:
            status = self._file.stat()
            version = status.st_mtime_ns, status.st_ino
            if version == self._version:
                return
            lines = [line.strip().encode() for line in self._file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            if self._tokens:
                log.error("the tokens stay as they were: %s", error)
            return
        self._version = version
        tokens = tuple(line for line in lines if len(line) >= _SHORTEST_TOKEN)
        if tokens or not self._tokens:
            self._tokens = tokens
        else:
            log.error("%s holds no token of %d characters or more: the tokens stay", self._file, _SHORTEST_TOKEN)

    def admits(self, headers: Headers) -> bool:
        """Compares with every token, each in constant time."""
        self._refresh()  # takes a microsecond, for the file's date
        kind, _, sent = _single(headers, b"authorization").partition(b" ")
        matches = [hmac.compare_digest(sent.strip(), token) for token in self._tokens]
        return kind.lower() == b"bearer" and any(matches)


class ProxyHeader:
    """`kind: header`: admits requests in which the proxy in front names the caller."""

    hint = "the proxy in front of the router did not identify you"

    def __init__(self, name: str, values: Iterable[str]) -> None:
        self.scheme: Scheme = {"type": "apiKey", "in": "header", "name": name}
        self._name = name.lower().encode()
        self._values = tuple(value.encode() for value in values)

    def admits(self, headers: Headers) -> bool:
        """Compares with every value, each in constant time."""
        sent = _single(headers, self._name)
        return any([hmac.compare_digest(sent, value) for value in self._values])


Authentication = Everybody | Tokens | ProxyHeader


def authentication(settings: NoAuth | TokenAuth | HeaderAuth) -> Authentication:
    """The authentication of the setting `auth`; raises SettingsError if the file of tokens can't be used."""
    match settings:
        case NoAuth():
            return Everybody()
        case TokenAuth():
            return Tokens(settings.file)
        case HeaderAuth():
            return ProxyHeader(settings.name, settings.values)


def _single(headers: Headers, name: bytes) -> bytes:
    """The header's value; empty if it is absent or, which is ambiguous, there more than once."""
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else b""

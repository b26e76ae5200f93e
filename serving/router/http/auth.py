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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.router.ops.settings import HeaderAuth, NoAuth, SettingsError, TokenAuth

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]
Scheme = Mapping[str, str] | None
"""A security scheme of OpenAPI; None: there is no authentication."""
BEARER: Scheme = {"type": "http", "scheme": "bearer"}
_SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True, eq=False)
class Authentication:
    """Admits requests that hold a valid value; the default is `kind: none`, which admits every request."""

    hint: str = ""  # for refused callers
    scheme: Scheme = None
    sent: Callable[[Headers], bytes] = lambda _: b""  # the value in a request's headers; empty: there is none
    valid: Callable[[], Sequence[bytes]] = lambda: [b""]

    def admits(self, headers: Headers) -> bool:
        """Compares with every valid value, each in constant time."""
        sent = self.sent(headers)
        return any([hmac.compare_digest(sent, value) for value in self.valid()])


class _Tokens:
    """The tokens in a file; raises SettingsError if the file has no usable one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._version: tuple[int, int] | None = None
        self._tokens: tuple[bytes, ...] = ()
        if not self.read():
            raise SettingsError(f"auth.file: {file} holds no token of at least {_SHORTEST_TOKEN} characters")

    def read(self) -> tuple[bytes, ...]:
        """Read the file if it changed. A file that is gone or empty is ignored: it may be a half-done rotation."""
        try:
            status = self._file.stat()  # takes a microsecond
            version = status.st_mtime_ns, status.st_ino
            if version == self._version:
                return self._tokens
            lines = [line.strip().encode() for line in self._file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            if self._tokens:
                log.error("the tokens stay as they were: %s", error)
            return self._tokens
        self._version = version
        if tokens := tuple(line for line in lines if len(line) >= _SHORTEST_TOKEN):
            self._tokens = tokens
        elif self._tokens:
            log.error("%s holds no token of %d characters or more: the tokens stay", self._file, _SHORTEST_TOKEN)
        return self._tokens


def authentication(settings: NoAuth | TokenAuth | HeaderAuth) -> Authentication:
    """The authentication of the setting `auth`; raises SettingsError if the file of tokens can't be used."""
    match settings:
        case NoAuth():
            return Authentication()
        case TokenAuth():
            hint = "send Authorization: Bearer with a valid token"
            return Authentication(hint, BEARER, _bearer, _Tokens(settings.file).read)
        case HeaderAuth():
            hint = "the proxy in front of the router did not identify you"
            name, values = settings.name.lower().encode(), [value.encode() for value in settings.values]
            scheme = {"type": "apiKey", "in": "header", "name": settings.name}
            return Authentication(hint, scheme, lambda headers: _single(headers, name), lambda: values)


def _bearer(headers: Headers) -> bytes:
    kind, _, sent = _single(headers, b"authorization").partition(b" ")
    return sent.strip() if kind.lower() == b"bearer" else b""


def _single(headers: Headers, name: bytes) -> bytes:
    """The header's value; empty if it is absent or, which is ambiguous, there more than once."""
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else b""

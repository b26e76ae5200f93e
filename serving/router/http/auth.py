"""Who may ask for decisions and report outcomes: whoever knows a token, or whom the proxy in front vouches for.

```yaml
auth: {kind: token, file: /run/secrets/mtorl/token}           # Authorization: Bearer ...; each line is a valid token
auth: {kind: header, name: x-client-identity, values: [ads]}  # set by a proxy that ends mTLS and drops a caller's own
auth: {kind: none}                                            # only where nobody else can reach the port
```

The setting has no default: leaving authentication off is a decision that stands in the file. Tokens are read anew when
their file changes (a Secret is rotated without a restart: write the new line first, remove the old one later).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from serving.throttle import OncePerSecond

log = logging.getLogger(__name__)
log.addFilter(OncePerSecond())

Headers = Iterable[tuple[bytes, bytes]]
_LEAST_TOKEN = 16  # characters


class AuthError(ValueError):
    """The setting is wrong; the message names it."""


class Authentication(Protocol):
    """Tells callers apart."""

    hint: str
    """What a refused caller is told."""

    def admits(self, headers: Headers) -> bool:
        """Whether a request with these headers (names in lower case) may come in."""


class Nobody:
    """`kind: none`."""

    hint = ""

    def admits(self, headers: Headers) -> bool:
        """Everybody."""
        return True


class Tokens:
    """`kind: token`."""

    hint = "send Authorization: Bearer with a valid token"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._tokens: tuple[bytes, ...] = ()
        self._refresh()
        if not self._tokens:
            raise AuthError(f"auth.file: {file} holds no token of at least {_LEAST_TOKEN} characters")

    def _refresh(self) -> None:
        """Look at the file; one that is gone or empty changes nothing, or a half-done rotation would lock all out."""
        try:
            found = self._file.stat()
            if (seen := (found.st_mtime_ns, found.st_ino)) == self._seen:
                return
            lines = [line.strip().encode() for line in self._file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            if self._tokens:
                log.error("the tokens stay as they were: %s", error)
            return
        self._seen = seen
        tokens = tuple(line for line in lines if len(line) >= _LEAST_TOKEN)
        if tokens or not self._tokens:
            self._tokens = tokens
        else:
            log.error("%s holds no token of at least %d characters: those before stay valid", self._file, _LEAST_TOKEN)

    def admits(self, headers: Headers) -> bool:
        """Compares with every token, each in constant time."""
        self._refresh()  # a look at the file's date takes a microsecond
        given = _one(headers, b"authorization")
        kind, _, token = given.partition(b" ")
        matches = [hmac.compare_digest(token.strip(), known) for known in self._tokens]
        return kind.lower() == b"bearer" and any(matches)


class Header:
    """`kind: header`."""

    hint = "the proxy in front of the router did not vouch for you"

    def __init__(self, name: str, values: Iterable[str]) -> None:
        self._name = name.lower().encode()
        self._values = tuple(value.encode() for value in values)

    def admits(self, headers: Headers) -> bool:
        """Compares with every value, each in constant time."""
        given = _one(headers, self._name)
        return any([hmac.compare_digest(given, known) for known in self._values])


def authentication(settings: object) -> Authentication:
    """Build what the setting `auth` says.

    Args:
        settings: A mapping, see the module.

    Raises:
        AuthError: It is not one.
    """
    if not isinstance(settings, Mapping) or "kind" not in settings:
        raise AuthError("auth: expected a mapping with kind: token, header or none (see the manual of serving/router)")
    kind, rest = settings["kind"], {key: value for key, value in settings.items() if key != "kind"}
    if kind == "none":
        _keys(kind, rest, set())
        return Nobody()
    if kind == "token":
        _keys(kind, rest, {"file"})
        if not isinstance(rest["file"], str) or not rest["file"]:
            raise AuthError(f"auth.file: expected a path, got {rest['file']!r}")
        return Tokens(Path(rest["file"]))
    if kind == "header":
        _keys(kind, rest, {"name", "values"})
        name, values = rest["name"], rest["values"]
        if not isinstance(name, str) or not name:
            raise AuthError(f"auth.name: expected the name of a header, got {name!r}")
        if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
            raise AuthError(f"auth.values: expected a list of texts, got {values!r}")
        return Header(name, values)
    raise AuthError(f"auth.kind: {kind!r} is not one of token, header, none")


def _keys(kind: str, found: Mapping[str, Any], wanted: set[str]) -> None:
    if set(found) != wanted:
        expected = ", ".join(sorted(wanted)) or "nothing"
        raise AuthError(f"auth: kind {kind} takes {expected} besides, got {', '.join(sorted(found)) or 'nothing'}")


def _one(headers: Headers, name: bytes) -> bytes:
    """The header's value; empty if it is absent, or there more than once: which one was meant is anybody's guess."""
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else b""

"""Authenticates callers by tokens in the header Authorization.

A changed token file is read again, so that tokens can be replaced without a restart.
"""

import hmac
import logging
from collections.abc import Iterable
from pathlib import Path

from serving.router.ops.settings import NoAuth, SettingsError, TokenAuth

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]
_SHORTEST_TOKEN = 16  # characters


class Authentication:
    """Admits requests that have one of the tokens in a file. Without authentication, all requests are admitted.

    Raises SettingsError if the file has no usable token.
    """

    def __init__(self, settings: NoAuth | TokenAuth) -> None:
        self._file: Path | None = settings.file if isinstance(settings, TokenAuth) else None
        self._version: tuple[int, int] | None = None
        self._tokens: tuple[bytes, ...] = ()
        if self._file is not None:
            self._read(self._file)
            if not self._tokens:
                raise SettingsError(f"auth.file: {self._file} has no token of at least {_SHORTEST_TOKEN} characters")

    @property
    def needed(self) -> bool:
        """Whether a request needs a token."""
        return self._file is not None

    def admits(self, headers: Headers) -> bool:
        """Whether a request has a valid token, compared in constant time."""
        if self._file is None:
            return True
        self._read(self._file)
        sent = [value for key, value in headers if key == b"authorization"]
        kind, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")  # two would be ambiguous
        return any([hmac.compare_digest(token.strip(), one) for one in self._tokens]) and kind.lower() == b"bearer"

    def _read(self, file: Path) -> None:
        """Read the tokens of a changed file. If it has none, keep the previous tokens."""
        try:
            status = file.stat()  # takes a microsecond
            version = status.st_mtime_ns, status.st_ino
            if version == self._version:
                return
            lines = [line.strip().encode() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            log.error("the tokens are unchanged: %s", error)
            return
        self._version = version
        if tokens := tuple(line for line in lines if len(line) >= _SHORTEST_TOKEN):
            self._tokens = tokens
        else:
            log.error("%s has no token of at least %d characters: the tokens are unchanged", file, _SHORTEST_TOKEN)

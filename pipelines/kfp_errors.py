"""Calls of the KFP SDK: its errors in one line that says what to mend, and its talk off the console."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")
PATIENCE_SECONDS = 600.0
"""How long a server may be away that somebody waits for: its restart, or a rollout of what stands before it."""
_BUSY = 429  # of HTTP statuses: too many requests


class ServerError(RuntimeError):
    """The server can't be reached, or refuses; the message says what to mend."""


class ServerAway(ServerError):
    """Nobody answers, or only that there is a fault within: what was asked for may go well in a moment."""


class RequestError(ValueError):
    """What was asked for can't be; the message says what to mend."""


@contextlib.contextmanager
def calling(endpoint: str = "") -> Iterator[None]:
    """Around calls of the SDK.

    Args:
        endpoint: Of the server, for the message when nobody answers there.

    Raises:
        ServerError: the server refuses.
        ServerAway: nobody answers.
    """
    with _quiet(), _translated(endpoint):
        yield


def patiently(
    ask: Callable[[], _Answer],
    tell: Callable[[str], None],
    pause: float,
    patience: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _Answer:
    """Ask, and again while the server is away: who waits for a run must not lose it by a restart of the server.

    Args:
        ask: Something that changes nothing.
        tell: Told once that the server is away, and once that it is back.
        pause: Seconds between two times.
        patience: Seconds after which it is asked no more.
        sleep: Waits.
        clock: Seconds.

    Raises:
        ServerError: the server refuses, or was away for so long.
    """
    since: float | None = None
    while True:
        try:
            answer = ask()
        except ServerAway as error:
            if since is None:
                since = clock()
                tell(f"{error}; waits for it")
            elif clock() - since >= patience:
                raise ServerError(f"{error} (for {clock() - since:.0f} s)") from None
            sleep(pause)
            continue
        if since is not None:
            tell("the server answers again")
        return answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the SDK's links to a user interface, its warnings and the tracebacks that it logs off the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    """Errors of the SDK and of the connection in one line that says what to do."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        away = error.status == _BUSY or (error.status or 0) >= 500
        raise (ServerAway if away else ServerError)(_words_of(error)) from None
    except (HTTPError, TimeoutError) as error:  # TimeoutError: the SDK has asked for its health five times
        where = endpoint or "the endpoint that the KFP SDK has found"
        raise ServerAway(
            f"{where}: no answer ({type(error).__name__}); is --endpoint right, and its port open?"
        ) from None


def _words_of(error: Any) -> str:
    try:
        body = json.loads(error.body)
        text = str(body.get("message") or body.get("error") or error.body)
    except (TypeError, ValueError):
        text = str(error.body or error.reason)
    hint = ""
    if error.status in (401, 403):
        hint = "; is the token of this namespace, and not expired? (--existing-token, --namespace)"
    return f"status {error.status}: {' '.join(text.split())[:500]}{hint}"

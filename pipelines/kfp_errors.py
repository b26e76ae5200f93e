"""Calls of the KFP SDK: its errors in one line that says what to mend, and its talk off the console."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any


class ServerError(RuntimeError):
    """The server can't be reached, or refuses; the message says what to mend."""


class RequestError(ValueError):
    """What was asked for can't be; the message says what to mend."""


@contextlib.contextmanager
def calling(endpoint: str = "") -> Iterator[None]:
    """Around calls of the SDK.

    Args:
        endpoint: Of the server, for the message when nobody answers there.

    Raises:
        ServerError: the server refuses, or nobody answers.
    """
    with _quiet(), _translated(endpoint):
        yield


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
        raise ServerError(_words_of(error)) from None
    except (HTTPError, TimeoutError) as error:  # TimeoutError: the SDK has asked for its health five times
        where = endpoint or "the endpoint that the KFP SDK has found"
        raise ServerError(
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

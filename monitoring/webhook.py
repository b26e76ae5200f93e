"""One message of what a comparison of columns has found, to a webhook: for people who have no Prometheus.

    post(message(compared), "https://hooks.example.com/services/...")      # compared: what drift.json says

`text` is what Slack, Mattermost and the like show; `findings` says the same to programs. It is no alert: nothing groups
it, nothing ends it. Where there is a Prometheus, the monitor's exporter tells it (`monitoring/watch`).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mtorl.drift.drift_tests import words_of

RUNBOOK = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks/MtorlDrift.md"
ATTEMPTS, PAUSE_SECONDS = 3, 0.3


class WebhookError(Exception):
    """The message did not arrive. What this says names no more of the address than its host: the rest is a secret."""


def message(compared: Mapping[str, Any]) -> dict[str, Any] | None:
    """What there is to tell of a period; None if its columns are as in training.

    A period that could not be checked is told as well, for without that it would look healthy.

    Args:
        compared: The content of drift.json, as `monitoring.drift.DriftResult.to_dict` makes it.
    """
    period = compared["period"]
    if compared["not_checked"] is not None:
        findings = [_finding("", "not_checked", "was not checked", compared["not_checked"])]
        title = f"period {period!r} was not checked for drift: {compared['not_checked']}"
    else:
        findings = [
            _finding(column["column"], words.kind, words.summary, column["message"])
            for column in compared["columns"]
            if column["problem"] is not None and (words := words_of(column["problem"]))
        ]
        seen = f"{compared['rows']:,} rows of {compared['users']:,} users"
        title = f"period {period!r} ({seen}) differs from the training data"
    if not findings:
        return None
    lines = [f"- {each['column']} {each['summary']}: {each['description']}" for each in findings if each["column"]]
    text = "\n".join([f"MTORL: {title}", *lines, f"What to do: {RUNBOOK}"])
    return {"text": text, "period": period, "findings": findings}


def _finding(column: str, kind: str, summary: str, description: str) -> dict[str, str]:
    return {"column": column, "kind": kind, "summary": summary, "description": description}


def post(content: Mapping[str, Any], url: str, *, timeout: float = 5.0) -> None:
    """Send a message as JSON.

    Server faults and broken connections are tried three times; a refusal is not, it would be refused again. Redirects
    are not followed and proxies not used: a token in the address goes to the host that was named and to no other.

    Raises:
        WebhookError: it did not arrive.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WebhookError("the webhook's address is not http://host... or https://host...")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    body = json.dumps(content).encode()
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            status, answer = _send(parts.scheme, parts.netloc, path, body, timeout)
        except OSError as error:
            fault = f"{type(error).__name__}: {error}; is the address right and the port open from here?"
            continue
        except http.client.HTTPException as error:  # its words may repeat the address
            fault = f"{type(error).__name__}; is the address right?"
            continue
        if 200 <= status < 300:
            return
        fault = f"status {status}: {answer}"
        if status < 500 and status != 429:
            fault += _fix(status)
            break
    raise WebhookError(f"message not delivered to {parts.scheme}://{parts.hostname}: {fault}")


def _send(scheme: str, netloc: str, path: str, body: bytes, timeout: float) -> tuple[int, str]:
    host = netloc.rpartition("@")[2]
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, timeout=timeout)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(300).decode(errors="replace").strip()
    finally:
        connection.close()


def _fix(status: int) -> str:
    if status in (401, 403, 404, 410):
        return "; is this the whole address, with its token, and is the webhook still there?"
    if 300 <= status < 400:
        return "; redirects are not followed, give the final address"
    return "; the webhook refused the message as it is"

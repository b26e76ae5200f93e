"""Drift findings as alerts, sent to an Alertmanager (API v2).

    post(drift_alerts(result, model_version="3f2a9c"), "http://alertmanager.monitoring:9093")

One alert a column: Alertmanager groups them into one message, and a column that joins later notifies again, which one
alert for the period would not do.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from monitoring.drift import DriftResult
from mtorl.drift.drift_tests import words_of

ALERT = "MtorlDrift"
RUNBOOK = f"https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks/{ALERT}.md"
ATTEMPTS, PAUSE_SECONDS = 3, 0.3
HOLDS = timedelta(hours=3)
"""How long a finding stands. Checks come every hour: one that fails, or is late, does not end an alert."""


class AlertError(Exception):
    """The alerts did not arrive; the message says what to mend."""


def drift_alerts(
    result: DriftResult, model_version: str, *, runbook_url: str = RUNBOOK, now: datetime | None = None
) -> list[dict[str, Any]]:
    """One Alertmanager alert for each column that drifted or broke.

    A period that could not be checked gives one alert of kind "not_checked", for without one it would look healthy.
    Broken columns are critical, because the policy reads them as unknown. Drift is a warning: it may explain a loss,
    but decisions go on as before.

    Args:
        result: outcome of `monitoring.drift.check`.
        model_version: version of the artifact whose reference was used.
        runbook_url: address of the runbook as the reader of the alert can open it.
        now: start of the alerts; the current time if not given.
    """
    start = now or datetime.now(UTC)
    stands = {"startsAt": start, "endsAt": start + HOLDS}

    def alert(column: str, kind: str, severity: str, summary: str, description: str) -> dict[str, Any]:
        return {
            "labels": {
                "alertname": ALERT,
                "severity": severity,
                "kind": kind,
                "column": column,
                "period": result.period,
                "model_version": model_version,
            },
            "annotations": {"summary": summary, "description": description, "runbook_url": runbook_url},
            **{name: at.isoformat(timespec="milliseconds") for name, at in stands.items()},
        }

    if result.not_checked is not None:
        return [
            alert(
                "", "not_checked", "warning", f"period {result.period!r} was not checked for drift", result.not_checked
            )
        ]
    seen = f"{result.rows:,} rows of {result.users:,} users against {result.reference_users:,} reference users"
    return [
        alert(
            column.column,
            words_of(column.problem).kind,
            "warning" if words_of(column.problem).kind == "drift" else "critical",
            f"{column.column} {words_of(column.problem).summary} (period {result.period!r})",
            f"{column.message}; {seen}",
        )
        for column in result.columns
        if column.problem is not None
    ]


def post(alerts: Sequence[dict[str, Any]], url: str, token: str | None = None, *, timeout: float = 5.0) -> int:
    """Send alerts to `<url>/api/v2/alerts` and return how many were sent.

    Server faults and broken connections are tried three times; a refusal is not, it would be refused again. Redirects
    are not followed and proxies not used: the token goes to the host that was named and to no other.

    Raises:
        AlertError: they did not arrive.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AlertError(f"alert address {url!r} is not http://host:port or https://host:port of an Alertmanager")
    if not alerts:
        return 0
    body = json.dumps(list(alerts)).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            status, answer = _send(
                parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/api/v2/alerts", body, headers, timeout
            )
        except (OSError, http.client.HTTPException) as error:
            fault = f"{type(error).__name__}: {error}; is the address right and the port open from here?"
            continue
        if status == 200:
            return len(alerts)
        fault = f"status {status}: {answer}"
        if status < 500 and status != 429:
            fault += _fix(status)
            break
    raise AlertError(f"{len(alerts)} alerts not delivered to {parts.scheme}://{parts.hostname}: {fault}")


def _send(scheme: str, netloc: str, path: str, body: bytes, headers: dict[str, str], timeout: float) -> tuple[int, str]:
    host = netloc.rpartition("@")[2]
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, timeout=timeout)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(300).decode(errors="replace").strip()
    finally:
        connection.close()


def _fix(status: int) -> str:
    if status in (401, 403):
        return "; give a token that may write alerts"
    if 300 <= status < 400:
        return "; redirects are not followed, give the final address"
    if status == 404:
        return "; the address must be the root of an Alertmanager, without /api/v2/alerts"
    return "; the Alertmanager refused the alerts as they are"

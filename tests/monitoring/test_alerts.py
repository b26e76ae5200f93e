"""Alerts: their shape, their delivery, and errors that say what to mend."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from monitoring import alerts as alerts_module
from monitoring.alerts import ALERT, RUNBOOK, AlertError, drift_alerts, post
from monitoring.drift import ColumnDrift, DriftResult
from monitoring.webhook import Receiver


def result(not_checked: str | None = None) -> DriftResult:
    columns = (
        ColumnDrift("hour", "numeric", "wasserstein", 0.02, 0.08, 0.0, 0.0, None, "wasserstein 0.020, threshold 0.080"),
        ColumnDrift(
            "age", "numeric", "wasserstein", 0.3, 0.08, 0.0, 0.0, "drift", "wasserstein 0.300, threshold 0.080"
        ),
        ColumnDrift("region", "categorical", "jensenshannon", None, None, 1.0, 0.0, "no_values", "no value in any row"),
    )
    return DriftResult("shifted", 900, 90, 4000, 400, 0.01, columns, not_checked, None, "drift.json", 1.0)


def test_one_alert_for_each_detected_column() -> None:
    now = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    drifted, broken = drift_alerts(result(), "3f2a9c", now=now)
    assert drifted == {
        "labels": {
            "alertname": ALERT,
            "severity": "warning",
            "kind": "drift",
            "column": "age",
            "period": "shifted",
            "model_version": "3f2a9c",
        },
        "annotations": {
            "summary": "age has moved away from the training data (period 'shifted')",
            "description": "wasserstein 0.300, threshold 0.080; 900 rows of 90 users against 400 reference users",
            "runbook_url": RUNBOOK,
        },
        "startsAt": "2025-01-02T03:04:05.000+00:00",
        "endsAt": "2025-01-02T06:04:05.000+00:00",  # two hourly checks may fail before it ends
    }
    assert broken["labels"]["severity"] == "critical" and broken["labels"]["kind"] == "data_quality"
    root = Path(alerts_module.__file__).parents[1]
    assert (root / "docs" / "runbooks" / RUNBOOK.rsplit("/", 1)[-1]).exists()


def test_a_period_that_was_not_checked_is_not_silent() -> None:
    (only,) = drift_alerts(result("10 rows of 2 users"), "3f2a9c")
    assert only["labels"]["kind"] == "not_checked"
    assert only["annotations"]["description"] == "10 rows of 2 users"


def test_delivery_to_the_receiver() -> None:
    sent = drift_alerts(result(), "3f2a9c")
    with Receiver() as receiver:
        assert post(sent, receiver.url) == 2
        assert post(sent, receiver.url + "/") == 2
        assert post([], receiver.url) == 0
        assert receiver.received == sent + sent
        with pytest.raises(AlertError, match="not a list of alerts"):
            post([{"labels": {}}], receiver.url)
        with pytest.raises(AlertError, match="root of an Alertmanager"):
            post(sent, receiver.url + "/elsewhere")
        connection = HTTPConnection(receiver.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/api/v2/alerts", headers={"Content-Length": str(1 << 30)})
        assert connection.getresponse().status == 413
        connection.close()
    assert not any(
        thread.name.startswith("Thread") and "serve_forever" in thread.name for thread in threading.enumerate()
    )


@contextmanager
def server(statuses: list[int], seen: list[dict[str, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append({"path": self.path, "token": self.headers.get("Authorization"), "body": json.loads(body)})
            self.send_response(statuses[min(len(seen), len(statuses)) - 1])
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_server_faults_are_retried_and_refusals_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "PAUSE_SECONDS", 0.0)
    one = drift_alerts(result(), "v")[:1]
    seen: list[dict[str, Any]] = []
    with server([503, 200], seen) as url:
        assert post(one, url + "/alertmanager", token="secret") == 1
    assert [request["path"] for request in seen] == ["/alertmanager/api/v2/alerts"] * 2
    assert seen[0]["token"] == "Bearer secret" and seen[0]["body"] == one

    for status, attempts, words in (
        (500, 3, "status 500"),
        (401, 1, "token"),
        (307, 1, "final address"),
        (400, 1, "refused"),
    ):
        seen = []
        with server([status], seen) as url, pytest.raises(AlertError, match=words):
            post(one, url)
        assert len(seen) == attempts


def test_no_server_and_bad_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "PAUSE_SECONDS", 0.0)
    one = drift_alerts(result(), "v")[:1]
    with Receiver() as receiver:
        url = receiver.url
    with pytest.raises(AlertError, match=r"ConnectionRefusedError.*port open"):
        post(one, url, timeout=0.5)
    with pytest.raises(AlertError) as error:
        post(one, "http://user:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(error.value)
    for bad in ("alertmanager:9093", "file:///etc/passwd", ""):
        with pytest.raises(AlertError, match="Alertmanager"):
            post(one, bad)


def test_importing_monitoring_loads_neither_evidently_nor_plotly() -> None:
    code = (
        "import sys, monitoring.alerts, monitoring.drift, monitoring.webhook, monitoring.verdict, monitoring.report;"
        "print([m for m in ('evidently', 'plotly', 'torch', 'kfp', 'feast') if m in sys.modules])"
    )
    root = Path(alerts_module.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr

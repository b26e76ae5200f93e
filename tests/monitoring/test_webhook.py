"""The message to a webhook: its content, its delivery, and errors that say what to mend."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from monitoring import webhook
from monitoring.drift import ColumnDrift, DriftResult
from monitoring.webhook import RUNBOOK, WebhookError, message, post
from monitoring.webhook_receiver import Receiver
from tests.repository import ROOT


def compared(not_checked: str | None = None, broken: bool = True) -> dict[str, Any]:
    columns = (
        ColumnDrift("hour", "numeric", "wasserstein", 0.02, 0.08, 0.0, 0.0, None, "wasserstein 0.020, threshold 0.080"),
        ColumnDrift(
            "age", "numeric", "wasserstein", 0.3, 0.08, 0.0, 0.0, "drift", "wasserstein 0.300, threshold 0.080"
        ),
        ColumnDrift("region", "categorical", "jensenshannon", None, None, 1.0, 0.0, "no_values", "no value in any row"),
    )
    found = columns if broken else columns[:1]
    return DriftResult("shifted", 900, 90, 4000, 400, 0.01, found, not_checked, None, "drift.json", 1.0).to_dict()


def told() -> dict[str, Any]:
    made = message(compared())
    assert made is not None
    return made


def test_one_message_for_all_columns() -> None:
    made = told()
    assert made["text"].splitlines() == [
        "MTORL: period 'shifted' (900 rows of 90 users) differs from the training data",
        "- age has moved away from the training data: wasserstein 0.300, threshold 0.080",
        "- region has no usable value: no value in any row",
        f"What to do: {RUNBOOK}",
    ]
    assert [(each["column"], each["kind"]) for each in made["findings"]] == [
        ("age", "drift"),
        ("region", "data_quality"),
    ]
    assert (ROOT / "docs" / "runbooks" / RUNBOOK.rsplit("/", 1)[-1]).exists()


def test_nothing_is_told_where_nothing_differs() -> None:
    assert message(compared(broken=False)) is None


def test_a_period_that_was_not_checked_is_not_silent() -> None:
    made = message(compared("10 rows of 2 users"))
    assert made is not None and "was not checked for drift: 10 rows of 2 users" in made["text"]
    assert [each["kind"] for each in made["findings"]] == ["not_checked"]


def test_delivery_to_the_receiver() -> None:
    with Receiver() as receiver:
        post(told(), receiver.url)
        post(told(), receiver.url.rstrip("/"))
        assert receiver.received == [told(), told()]
        with pytest.raises(WebhookError, match="not a message"):
            post({"labels": {}}, receiver.url)
        with pytest.raises(WebhookError, match="with its token"):
            post(told(), receiver.url + "elsewhere")
        connection = HTTPConnection(receiver.url.removeprefix("http://").rstrip("/"), timeout=60)
        connection.request("POST", "/", headers={"Content-Length": str(1 << 30)})
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
            seen.append({"path": self.path, "body": json.loads(body)})
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
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.0)
    seen: list[dict[str, Any]] = []
    with server([503, 204], seen) as url:
        post(told(), url + "/services/T0?key=1")
    assert [request["path"] for request in seen] == ["/services/T0?key=1"] * 2
    assert seen[0]["body"] == told()

    for status, attempts, words in (
        (500, 3, "status 500"),
        (410, 1, "still there"),
        (307, 1, "final address"),
        (400, 1, "refused"),
    ):
        seen = []
        with server([status], seen) as url, pytest.raises(WebhookError, match=words):
            post(told(), url)
        assert len(seen) == attempts


def test_no_server_and_bad_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is secret of an address is in no message."""
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.0)
    with Receiver() as receiver:
        url = receiver.url
    with pytest.raises(WebhookError, match=r"ConnectionRefusedError.*port open"):
        post(told(), url, timeout=0.5)
    secret = "hunter2"
    for bad in (
        f"http://user:{secret}@127.0.0.1:1",
        f"http://127.0.0.1:1/{secret}",
        f"http://127.0.0.1:1/{secret} x",
        f"http://127.0.0.1:{secret}/",
        f"127.0.0.1:9093/{secret}",
        f"file:///{secret}",
        "",
    ):
        with pytest.raises(WebhookError) as error:
            post(told(), bad)
        assert secret not in str(error.value)


def test_importing_monitoring_loads_neither_evidently_nor_plotly() -> None:
    code = (
        "import sys, monitoring.drift, monitoring.webhook, monitoring.webhook_receiver, monitoring.verdict;"
        "import monitoring.report;"
        "print([m for m in ('evidently', 'plotly', 'torch', 'kfp', 'feast') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr

"""Tests that a stopping router finishes pending work, and waits for a hanging store only briefly."""

import contextlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.decision_log import Spool
from serving.decision_log.segments import path_of
from serving.ledger.sqlite_ledger import SqliteLedger
from tests.serving.router_fixtures import event, instance
from tests.serving.router_process import Process
from tests.waiting import eventually

pytestmark = pytest.mark.integration

# Deadline in ms, and the longest wait for the ledger's lock
_LONG = 3_600_000
_COST = 0.01


@contextmanager
def locked(ledger: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(ledger, isolation_level=None, timeout=600)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield holder


class Report(threading.Thread):
    def __init__(self, process: Process, decision_id: str) -> None:
        super().__init__()
        self._body = {"outcomes": [event(decision_id, value=_COST)]}
        self._url = f"{process.url}/v1/outcomes"
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            self.answer = httpx.post(self._url, json=self._body, timeout=600)


def is_logged(folder: Path) -> None:
    eventually(lambda: path_of(folder / "spool", "outcome", 1).stat().st_size)


def ended(process: Process) -> int:
    return process.router.wait(120)


def said(folder: Path, level: str) -> list[str]:
    lines = [json.loads(line) for line in (folder / "router.log").read_text().splitlines()]
    return [line["message"] for line in lines if line["level"] == level]


def spent(folder: Path) -> float:
    with closing(SqliteLedger(folder / "ledger.sqlite")) as ledger:
        return max(balance.spent for balance in ledger.balances())


def logged(folder: Path, kind: Any) -> list[str]:
    with closing(Spool(folder / "spool")) as spool:
        return [record["decision_id"] for record in spool.read(kind)]


def test_a_hanging_ledger_does_not_block_shutdown_and_the_next_start_settles(folder: Path) -> None:
    with Process(folder, deadline_ms=_LONG) as process:
        (answer,) = process.predict(instance("u1"))
        assert answer["expose"]
        with locked(folder / "ledger.sqlite"):
            report = Report(process, answer["decision_id"])
            is_logged(folder)
            process.router.send_signal(signal.SIGTERM)
            assert ended(process) == 4
            report.join()
    (why,) = said(folder, "critical")
    assert "reservations" in why and why.endswith(": 1")
    assert logged(folder, "decision") == logged(folder, "outcome") == [answer["decision_id"]]
    assert spent(folder) == 0
    with Process(folder, deadline_ms=_LONG):
        assert spent(folder) == pytest.approx(_COST)


def test_work_that_ends_in_time_is_not_aborted(folder: Path) -> None:
    with Process(folder, deadline_ms=_LONG) as process:
        (answer,) = process.predict(instance("u1"))
        with locked(folder / "ledger.sqlite") as holder:
            report = Report(process, answer["decision_id"])
            is_logged(folder)
            process.router.send_signal(signal.SIGTERM)
            holder.execute("COMMIT")
            assert ended(process) == 0
        report.join()
    assert report.answer is not None and report.answer.json()["accepted"] == 1
    assert spent(folder) == pytest.approx(_COST)
    assert said(folder, "critical") == []


def test_a_thread_that_hangs_in_housekeeping_does_not_fail_the_shutdown(folder: Path) -> None:
    with Process(folder, deadline_ms=_LONG) as process:
        (answer,) = process.predict(instance("u1"))
        with locked(folder / "ledger.sqlite"):
            time.sleep(3)  # housekeeping reaches the ledger, once a second
            process.router.send_signal(signal.SIGTERM)
            assert ended(process) == 0
    assert said(folder, "critical") == []
    assert logged(folder, "decision") == [answer["decision_id"]]


def test_a_hanging_disk_does_not_block_shutdown_and_answered_decisions_are_logged(folder: Path) -> None:
    with Process(folder, deadline_ms=1000) as process:
        (answer,) = process.predict(instance("u1"))
        segment = path_of(folder / "spool", "outcome", 1)
        # A pipe without a reader blocks a write, like a disk that hangs.
        os.mkfifo(segment)
        report = Report(process, answer["decision_id"])
        # The report may not have reached the disk yet.
        eventually(lambda: process.predict(instance("u2"))[0]["fallback_reason"] == "log", 300)
        process.router.send_signal(signal.SIGTERM)
        assert ended(process) == 4
        report.join()
    (why,) = said(folder, "critical")
    assert "decision log" in why
    assert report.answer is None or report.answer.status_code >= 500
    segment.unlink()
    assert answer["decision_id"] in logged(folder, "decision")

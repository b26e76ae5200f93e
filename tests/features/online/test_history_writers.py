"""Many writers of histories at the same time: threads, processes, and a batch job beside them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.online.open_history import open_history
from tests.features.online_histories import (
    SPEC,
    START,
    OnlineStore,
    PlainHistory,
    append,
    seconds_after_start,
    touchpoint,
)
from tests.repository import ROOT


def test_a_batch_job_loses_no_touchpoint_that_is_appended_meanwhile(
    store: OnlineStore, user_ids: Iterator[str]
) -> None:
    """Each user has a touchpoint, the job brings a younger one, and an even younger one happens while it writes."""
    users = [next(user_ids) for _ in range(450)]  # several batches, the last one not full
    for user in users:
        append(store.history, user, touchpoint(1))
    log = PlainHistory(SPEC.window)
    for second in (1, 2):
        log.merge([touchpoint(second)])
    rows = log.rows(*users)
    with open_history(store.repo, SPEC) as history, open_history(store.repo, SPEC) as batch:
        job = threading.Thread(target=lambda: batch.merge(rows))
        job.start()
        for user in users:
            append(history, user, touchpoint(3))
        job.join()
    assert [seconds_after_start(store.read(user)) for user in users] == [[1, 2, 3]] * len(users)


def test_threads_share_a_history(store: OnlineStore, user: str) -> None:
    with open_history(store.repo, SPEC.replace(window=1000)) as history:
        work = [
            threading.Thread(target=lambda i=i: [append(history, user, touchpoint(4 * s + i)) for s in range(30)])
            for i in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert seconds_after_start(store.read(user)) == list(range(120))


EACH = 100  # touchpoints of a process: all four begin when the last of them is ready


@pytest.mark.integration
def test_four_processes_lose_nothing(store: OnlineStore, user: str, tmp_path: Path) -> None:
    SPEC.replace(window=10_000).save(tmp_path / "dataset.yaml")
    command = [
        sys.executable,
        "-m",
        "tests.features.history_writer",
        str(store.repo),
        str(tmp_path / "dataset.yaml"),
    ]
    given = [*command, user, START.isoformat()]
    workers = [
        subprocess.Popen(
            [*given, str(worker), str(EACH)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(4)
    ]
    assert [worker.stdout.readline() for worker in workers if worker.stdout] == ["ready\n"] * 4
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=600)[1] for worker in workers if worker.wait(600)] == []
    lists = store.read(user)
    assert seconds_after_start(lists) == list(range(4 * EACH))
    assert lists is not None and lists["hist_click"] == [1.0] * (4 * EACH)

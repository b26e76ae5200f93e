"""The repair of a period on a folder: what comes back, what a second run does, and what a refused one leaves alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.collect.store import collect
from monitoring.pipeline_runs import newest_runs
from monitoring.watch.state import STATE_FILE, State
from pipelines import local
from pipelines.on_volume import Ended, run_on
from tests.features.collect.decision_logs import decision, outcome, stored, write
from tests.pipelines.forked_steps import forked_steps, silent

pytestmark = pytest.mark.integration


def backfill(volume: Path, until: str = "2026-01-01T13:00Z") -> Ended:
    period = {"since": "2026-01-01T12:00Z", "until": until}
    return run_on(volume, "backfill", {**period, "source": "simulator", "dataset": "simulator", "users": "150"}, silent)


def files(folder: Path) -> dict[str, int]:
    """Each file and when it was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("part.parquet")}


def test_a_lost_hour_is_back_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    volume, store = tmp_path / "volume", tmp_path / "volume" / "collected"
    decisions = [decision(f"d{n}", 2 * n) for n in range(60)]
    write(volume / "decision_log" / "router-0", decisions, [outcome(f"{n}-cost", f"d{n}") for n in range(60)])
    collect(volume / "decision_log", store)
    expected = {kind: stored(store, kind) for kind in ("decision", "outcome")}
    shutil.rmtree(store / "decisions" / "date=2026-01-01" / "hour=12")
    others = files(store)

    with forked_steps(), pytest.raises(local.InputError, match="nothing lies between"):
        backfill(volume, until="2026-01-01T11:00Z")
    assert files(store) == others and not (volume / "features").exists()
    (failed,) = newest_runs(volume / "runs")
    assert failed.failed and "nothing lies between" in failed.why["collect-period"]

    with forked_steps():
        first = backfill(volume)
    assert first.cached == ()
    assert {kind: stored(store, kind) for kind in expected} == expected
    after = files(store)
    assert others.items() <= after.items() and len(after) == len(others) + 1
    assert (volume / "features" / "registry.db").exists() and first.steps["install-features"].values["Output"] is True
    assert first.steps["monitor"].values["Output"] == "not judged", "no decision in its sixty days"
    assert State.read(volume / "monitor" / STATE_FILE).checked is not None

    with forked_steps():
        again = backfill(volume)
    assert again.cached == ("ingest", "build-features")
    assert files(store) == after and again.steps["install-features"].values["Output"] is False
    (succeeded,) = newest_runs(volume / "runs")
    assert not succeeded.failed and succeeded.pipeline == "mtorl-backfill"

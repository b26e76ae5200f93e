"""Test that the public sample data sets in `../shared/data` have no faults."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.ingest.log_folder import RawLog, ingest
from features.offline.store import build_training_data
from features.sequences.manifest import Manifest
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch
from tests.repository import ROOT

SAMPLES = ROOT.parent / "shared" / "data"


def sample(name: str) -> str:
    path = SAMPLES / f"{name.replace('-', '_')}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the samples are not part of the repository")
    return str(path)


COUNTS = [("kuairand-sequence", 105_936, 5_063, 3), ("criteo-sequence", 92_399, 6_235, 0)]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "count", "users", "ties"), COUNTS)
def test_a_sample_has_no_fault_and_windows_are_strictly_past(
    name: str, count: int, users: int, ties: int, tmp_path: Path
) -> None:
    """Features and windows must equal log columns shifted by one row."""
    report = ingest(RawLog(sample(name), name), tmp_path / "log", tmp_path / "quarantine.csv")
    found = (report.rows, report.users, report.quarantined, report.faults, report.moved_ties)
    assert found == (count, users, 0, (), ties)
    log, spec = pd.read_parquet(tmp_path / "log" / "touchpoints.parquet"), DatasetSpec.load(name)
    assert log.groupby("user_id")["timestamp"].diff().dropna().min() >= pd.Timedelta("1us")
    assert set(log["channel"]) == set(spec.channels)
    assert log["propensity"].isna().all() and log.drop(columns="propensity").notna().all().all()

    rows = build_training_data(tmp_path / "log", tmp_path / "features", tmp_path / "windows")
    table = WindowTable.load(tmp_path / "windows")
    assert rows == len(log) == Manifest.read(tmp_path / "windows").rows
    steps = table.steps.to_pandas().reset_index(drop=True)
    log = log.set_index(["user_id", "timestamp"]).loc[pd.MultiIndex.from_frame(steps[["user_id", "timestamp"]])]
    log = log.reset_index()
    pause = log.groupby("user_id", sort=False)["timestamp"].diff() > pd.Timedelta(days=spec.journey_gap_days)
    journey = [log["user_id"], pause.groupby(log["user_id"], sort=False).cumsum()]
    assert (steps["step"].to_numpy() == log.groupby(journey, sort=False).cumcount()).all()

    windows = WindowBatch.from_steps(table.steps, None, spec)
    length = np.minimum(steps["step"].to_numpy() + 1, spec.window)
    assert (windows.length_B == length).all()
    # The decision's token in its window shows the touchpoint one row above.
    last = np.cumsum(length) - 1
    for name in ("channel", *OUTCOMES):
        shifted = log.groupby(journey, sort=False)[name].shift(1)
        if name == "channel":
            codes = shifted.map({channel: i for i, channel in enumerate(spec.channels)}).fillna(len(spec.channels))
            assert (windows.prev_channel_N[last] == codes).all()
        else:
            np.testing.assert_array_equal(windows.prev_outcomes[name][last], shifted.fillna(0))

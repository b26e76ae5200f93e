"""The real samples, whole: `../shared/data` beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from features.ingest.ingest import ingest_log
from features.ingest.log_folder import RawLog, ingest
from features.offline import store
from features.offline.store import build_training_data
from features.online.open_history import open_history
from features.sequences.manifest import Manifest
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.window.packed import served, unpack
from mtorl.window.table import WindowTable
from mtorl.window.window import AD_DECISION, WindowBatch
from tests.features.feature_run import AGGREGATES
from tests.repository import ROOT

SAMPLES = ROOT.parent / "shared" / "data"
MICROSECOND = pd.Timedelta(1, "us")


def sample(name: str) -> str:
    path = SAMPLES / f"{name.replace('-', '_')}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the samples are not part of the repository")
    return str(path)


COUNTS = [("kuairand", 105_936, 5_063, 3), ("criteo", 92_399, 6_235, 0)]


@pytest.mark.parametrize(("name", "count", "users", "ties"), COUNTS)
def test_a_sample_has_no_fault(tmp_path, name, count, users, ties):
    spec = DatasetSpec.load(f"{name}-sequence")
    report = ingest_log(sample(f"{name}-sequence"), spec, tmp_path / "log.parquet", tmp_path / "q.csv")
    assert (report.rows, report.users, report.quarantined, report.faults) == (count, users, 0, ())
    assert report.moved_ties == ties
    log = pd.read_parquet(tmp_path / "log.parquet")
    assert log.groupby("user_id")["timestamp"].diff().dropna().min() >= pd.Timedelta("1us")
    assert set(log["channel"]) == set(spec.channels)
    assert log["propensity"].isna().all() and log.drop(columns="propensity").notna().all().all()


def build(raw: str, name: str, folder: Path) -> int:
    """From the raw log to features and windows, as the pipeline does it."""
    ingest(RawLog(raw, name, "quarantine", users=0 if raw else 500), folder / "log", folder / "quarantine.csv")
    return build_training_data(folder / "log", folder / "features", folder / "windows")


def strictly_past(log: pd.DataFrame, spec: DatasetSpec, folder: Path) -> None:
    table = WindowTable.load(folder / "windows")
    steps = table.steps.to_pandas().reset_index(drop=True)
    log = log.set_index(["user_id", "timestamp"]).loc[pd.MultiIndex.from_frame(steps[["user_id", "timestamp"]])]
    log = log.reset_index()
    pause = log.groupby("user_id", sort=False)["timestamp"].diff() > pd.Timedelta(days=spec.journey_gap_days)
    journey = [log["user_id"], pause.groupby(log["user_id"], sort=False).cumsum()]
    assert (steps["step"].to_numpy() == log.groupby(journey, sort=False).cumcount()).all()

    windows = WindowBatch.from_steps(table.steps, None, spec)
    length = np.minimum(steps["step"].to_numpy() + 1, spec.window)
    assert (windows.length_B == length).all()
    last = np.cumsum(length) - 1  # the decision itself; its previous touchpoint is that of the row above
    for name in ("channel", *OUTCOMES):
        shifted = log.groupby(journey, sort=False)[name].shift(1)
        if name == "channel":
            codes = shifted.map({channel: i for i, channel in enumerate(spec.channels)}).fillna(len(spec.channels))
            assert (windows.prev_channel_N[last] == codes).all()
        else:
            np.testing.assert_array_equal(windows.prev_outcomes[name][last], shifted.fillna(0))


def the_same_online(log: pd.DataFrame, spec: DatasetSpec, folder: Path) -> None:
    root = folder / "features"
    log.to_parquet(folder / "log.parquet", index=False)
    store.materialize(root, spec, folder / "log.parquet")
    users = list(log["user_id"].unique()[::10])
    with open_history(root, spec) as history:
        values = history.store.read(users)
    names = ["channel", *OUTCOMES, *(c.name for c in spec.context)]
    journeys = dict(list(log.groupby("user_id")))
    for user, value in zip(users, values, strict=True):
        assert value is not None
        lists, last = served(unpack(value)), journeys[user].tail(spec.window)
        for name in names:
            expected = last[name].astype(object).where(last[name].notna(), None).tolist()
            online = [None if v == "" or v != v else v for v in lists[f"hist_{name}"]]
            assert online == expected, (user, name)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["kuairand-sequence", "criteo-sequence", "simulator"])
def test_windows_are_strictly_past_and_the_same_online(name, tmp_path):
    """Log, features and windows against shifted columns of the log: no lists, no joins, no SQL."""
    rows, spec = build("" if name == "simulator" else sample(name), name, tmp_path), DatasetSpec.load(name)
    log = pd.read_parquet(tmp_path / "log" / "touchpoints.parquet")
    assert rows == len(log) == Manifest.read(tmp_path / "windows").rows
    log = log.sort_values(["user_id", "timestamp"], ignore_index=True)
    strictly_past(log, spec, tmp_path)
    the_same_online(log, spec, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["kuairand-sequence", "criteo-sequence"])
def test_no_joined_feature_holds_the_outcome(name, tmp_path):
    """Feast's own join at a touchpoint's time tells its outcome in every row; here the clicks so far never count it."""
    spec = DatasetSpec.load(name).replace(features=AGGREGATES)
    spec.save(tmp_path / "dataset.yaml")
    build(sample(name), str(tmp_path / "dataset.yaml"), tmp_path)
    table = pd.read_parquet(tmp_path / "windows" / "steps")
    columns = Manifest.read(tmp_path / "windows").columns
    own = {"user_id", "timestamp", "step", *spec.log_columns}
    joined = [column for column in columns if column not in own]
    assert joined and not set(joined) & {c.name for c in spec.outcomes}
    opened = FeatureStore(repo_path=str(tmp_path / "features"))
    served = {f.name for p in opened.get_feature_service(AD_DECISION).feature_view_projections for f in p.features}
    served |= {column.name for column in spec.feature_columns}
    assert set(joined) <= served and not any(column.startswith("channel_") for column in joined)
    # The clicks of a user by channel, as joined, are clicks of rows above: never this row's own.
    before = table.groupby("user_id")["click"].cumsum() - table["click"]
    counted = np.array([sum(values) for values in table["uc_clicks"]])
    assert (counted <= before).all() and (counted[before > 0] > 0).any()

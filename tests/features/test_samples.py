"""The real samples, whole: `../shared/data` beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features import store
from mtorl.dataset import OUTCOMES, DatasetSpec
from mtorl.log import ingest_log
from mtorl.simulator import Simulator, SimulatorConfig
from mtorl.windows import WindowBatch

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
NAMES = ("channel", *OUTCOMES)


def check(log_path: Path, spec: DatasetSpec, root: Path) -> None:
    """Windows and online histories against shifted columns: no lists, no joins, no SQL."""
    out = root.parent / "windows.parquet"
    store.create(root, spec, log_path)
    assert store.training_windows(root, log_path, spec, out) == pq.read_metadata(log_path).num_rows
    log = pd.read_parquet(log_path).sort_values(["user_id", "timestamp"], ignore_index=True)
    table = pq.read_table(out)
    rows = table.select(spec.columns).to_pandas()
    pd.testing.assert_frame_equal(rows, log[list(spec.columns)])

    lists = {n: table[f"hist_{n}"].to_pandas() for n in (*NAMES, *(c.name for c in spec.context), "timestamp")}
    journeys = log.groupby("user_id", sort=False)
    length = np.minimum(journeys.cumcount(), spec.window)
    assert (lists["timestamp"].map(len) == length).all()
    for name, values in lists.items():
        column = log[name].astype("int64") if name == "timestamp" else log[name]
        for back in (1, 2, spec.window):
            has = length >= back
            expected = column.groupby(log["user_id"], sort=False).shift(back)[has]
            assert ([v[-back] for v in values[has]] == expected.to_numpy()).all(), (name, back)

    assert len(WindowBatch.from_joined(table, spec)) == len(log)

    store.materialize(root)
    from feast import FeatureStore

    opened = FeatureStore(repo_path=str(root))
    service = opened.get_feature_service(store.SERVICE)
    for user, journey in list(journeys)[::10]:
        history, static, found = store.online_features(opened, service, user)
        assert found
        last = journey.tail(spec.window)
        for name in (*NAMES, *(c.name for c in spec.context)):
            assert history[f"hist_{name}"] == last[name].tolist()
        assert static == {c.name: journey[c.name].iloc[0] for c in spec.static}


@pytest.mark.integration
@pytest.mark.parametrize("name", ["kuairand-sequence", "criteo-sequence"])
def test_real_sample(name, tmp_path):
    sample = SAMPLES / f"{name.replace('-', '_')}.csv.gz"
    if not sample.is_file():
        pytest.skip(f"{sample} is not there: the samples are not part of the repository")
    spec = DatasetSpec.load(name)
    log = tmp_path / "touchpoints.parquet"
    ingest_log(sample, spec, log, tmp_path / "quarantine.csv", "quarantine")
    check(log, spec, tmp_path / "features")


@pytest.mark.integration
def test_simulator(tmp_path):
    simulator = Simulator(SimulatorConfig(users=500))
    log = tmp_path / "touchpoints.parquet"
    simulator.log().to_parquet(log, index=False)
    check(log, simulator.spec, tmp_path / "features")

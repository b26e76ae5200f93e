"""The log on an empty volume: a copy, a simulated one, or the one that is there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact

from components.first_log.component import first_log
from mtorl.log.dataset import DatasetSpec
from tests.components.artifacts import Output


def put(volume: Path, output: Output, log: str = "", dataset: str = "simulator", simulate: bool = False) -> Path:
    quarantine = output(Artifact, "quarantine")
    registry = str(volume / "registry")
    return Path(first_log.python_func(str(volume), log, dataset, simulate, "fail", 40, 7, registry, quarantine))


def test_a_log_is_simulated_only_if_somebody_says_so_and_stays_once_it_is_there(tmp_path: Path, output: Output) -> None:
    with pytest.raises(SystemExit, match="no touchpoint log at"):
        put(tmp_path, output)
    path = put(tmp_path, output, simulate=True)
    assert path == tmp_path / "touchpoints.parquet" and pd.read_parquet(path)["user_id"].nunique() == 40
    before = path.stat().st_mtime_ns
    assert put(tmp_path, output) == path and path.stat().st_mtime_ns == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing else is left"


def test_a_log_of_somebody_is_copied_in_the_layout_that_is_read_again(tmp_path: Path, output: Output) -> None:
    made = put(tmp_path / "made", output, simulate=True)
    log = pd.read_parquet(made)
    log.sample(frac=1.0, random_state=1).to_csv(tmp_path / "log.csv", index=False)
    DatasetSpec.load("simulator").replace(adapter="touchpoints", name="shop").save(tmp_path / "shop.yaml")
    volume = tmp_path / "volume"
    path = put(volume, output, str(tmp_path / "log.csv"), str(tmp_path / "shop.yaml"))
    kept = pd.read_parquet(path)
    assert len(kept) == len(log) and kept["timestamp"].dt.tz is not None
    assert kept.equals(kept.sort_values(["user_id", "timestamp"], ignore_index=True))

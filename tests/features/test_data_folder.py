import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from features.sequences.manifest import Manifest
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import write
from tests.features.collect.test_engines import LONG_AGO, ODD, everything, same, sorted_rows
from tests.features.collect.test_rules import data_folder


def test_windows_have_the_features_chosen_by_the_description(tmp_path):
    with open_engine() as engine:
        manifest = build(engine, RawLog("", "simulator-aggregates", "fail", 40), tmp_path / "data")
    table = WindowTable.load(tmp_path / "data" / "windows")
    chosen = [column.name for column in table.spec.feature_columns]
    assert chosen and set(chosen) <= set(manifest.columns)
    features = table.windows("train").features
    assert list(features) == chosen
    assert np.nanmax(features["uc_clicks_search"]) > 0


@pytest.mark.long
@pytest.mark.parametrize("trusted", [False, True])
def test_spark_builds_the_same_log_with_decisions_and_the_same_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """Feature sources have tests of their own."""
    monkeypatch.setattr("features.data_folder.build_sources", lambda *_: None)
    write(tmp_path / "lake", *everything())
    log = data_folder(tmp_path / "log", 300, ODD, **LONG_AGO)
    ODD.save(tmp_path / "odd.yaml")
    raw = RawLog(str(log / LOG_FILE if trusted else log), str(tmp_path / "odd.yaml"))
    manifests, noted = [], []
    for name in ("duckdb", "spark"):
        with open_engine(name) as engine:
            manifests.append(build(engine, raw, tmp_path / name, trusted, str(tmp_path / "lake")))
        report = json.loads((tmp_path / name / INGEST_FILE).read_text())
        noted.append({key: report[key] for key in ("rows", "users")})
        assert manifests[-1].log_fingerprint == report["fingerprint"]
        assert (tmp_path / name / LOG_FILE).is_dir() == (name == "spark"), "each Spark task writes a part"
        there = pq.read_table(tmp_path / name / "windows" / OPPORTUNITIES_FILE)
        assert there.equals(pq.read_table(tmp_path / name / OPPORTUNITIES_FILE)) and len(there) > 300
    assert manifests[0].content_sha256 == manifests[1].content_sha256
    assert noted[0] == noted[1] and noted[0]["rows"] == manifests[0].rows > 600 and noted[0]["users"] > 300
    for file, keys in ((OPPORTUNITIES_FILE, ("decision_id",)), (LOG_FILE, ("user_id", "timestamp", "campaign_id"))):
        assert same(*(sorted_rows(tmp_path / name / file, *keys) for name in ("duckdb", "spark"))), file
    assert Manifest.read(tmp_path / "spark" / "windows") == manifests[1]

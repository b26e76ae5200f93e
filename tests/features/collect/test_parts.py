"""Tests that training reads a folder of parts, as Spark writes it, like a single file."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.collect.training_log import add_decisions, bound_touchpoints
from features.sequences.builder import build_windows
from features.sequences.manifest import Manifest
from mtorl.log import opportunities
from mtorl.log.opportunities import OPPORTUNITIES_FILE, Opportunities, contexts
from mtorl.log.touchpoints import LOG_FILE
from mtorl.log.trainings import LogFacts
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import SPEC, decision
from tests.features.collect.small_model import WINDOW
from tests.features.collect.test_rules import COST, collected, data_folder


def in_parts(file: Path) -> None:
    rows = pq.read_table(file)
    file.unlink()
    file.mkdir()
    for part, places in enumerate(np.array_split(np.arange(len(rows)), 3)):
        pq.write_table(rows.take(places), file / f"part-{part:05d}.parquet")
    (file / "_SUCCESS").touch()


def folder_of(tmp_path: Path, store: Path, name: str, parts: bool) -> Path:
    users = [f"old{i // 4:03d}" for i in range(400)]
    at = pd.Timestamp("2025-01-01", tz="UTC").as_unit("us") + pd.to_timedelta(np.arange(400), unit="min")
    folder = data_folder(tmp_path / name, 400, user_id=users, timestamp=at)
    if parts:
        in_parts(folder / LOG_FILE)
    add_decisions(store, folder, most_touchpoints=300)
    if parts:
        in_parts(folder / LOG_FILE)
        in_parts(folder / OPPORTUNITIES_FILE)
    build_windows(folder, folder / "windows")
    return folder


def test_training_reads_parts_as_it_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opportunities, "ENOUGH", 10)
    decisions = [decision(f"d{i}", i / 10, user_id=f"u{i // 4:03d}", window=WINDOW) for i in range(400)]
    store = collected(tmp_path, decisions, COST)
    file, parts = (folder_of(tmp_path, store, name, name == "parts") for name in ("file", "parts"))
    assert LogFacts.of(file) == LogFacts.of(parts) and LogFacts.of(file).share < 1
    one, other = (Manifest.read(folder / "windows") for folder in (file, parts))
    assert one.content_sha256 == other.content_sha256 and one.log_fingerprint == other.log_fingerprint
    for split in ("val", "test"):
        found, same = (Opportunities.load(folder / "windows", SPEC, split) for folder in (file, parts))
        assert found is not None and same is not None and found.windows == same.windows
        pd.testing.assert_frame_equal(found.rows, same.rows)
    read = [contexts(folder / "windows", SPEC, "train") for folder in (file, parts)]
    assert read[0] is not None and read[0].equals(read[1])
    assert WindowTable.load(parts / "windows").rows.equals(WindowTable.load(file / "windows").rows)
    for folder in (file, parts):
        shutil.rmtree(folder / "windows")
        bound_touchpoints(folder, 100)
    assert pd.read_parquet(file / LOG_FILE).equals(pd.read_parquet(parts / LOG_FILE))

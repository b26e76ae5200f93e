"""A raw log's digest changes with what is read of it, and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from features.ingest.content import content_of
from features.ingest.log_folder import RawLog
from mtorl.log.dataset import DatasetSpec


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "log.parquet"
    (folder / "day=1").mkdir(parents=True)
    for number in range(2):
        pd.DataFrame({"user_id": ["a", "b"], "cost": [0.1, number]}).to_parquet(folder / f"day=1/{number}.parquet")
    return folder


def of(path: Path, dataset: str | Path = "simulator") -> str:
    return content_of(RawLog(str(path), str(dataset)))


def test_a_file_is_known_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (first, second):
        path.write_text("user_id,cost\na,1\n")
    os.utime(second, (0, 0))
    assert of(first) == of(second)
    second.write_text("user_id,cost\na,2\n")  # of the same size
    assert of(first) != of(second)


def test_every_part_of_a_folder_counts_and_unfinished_ones_do_not(parts: Path) -> None:
    before = of(parts)
    (parts / ".2.parquet").write_bytes(b"half")
    (parts / "_temporary").mkdir()
    (parts / "_temporary" / "3.parquet").write_bytes(b"half")
    assert of(parts) == before
    pd.DataFrame({"user_id": ["a", "b"], "cost": [0.1, 7.0]}).to_parquet(parts / "day=1/1.parquet")
    changed = of(parts)
    (parts / "day=1/0.parquet").rename(parts / "day=1/4.parquet")
    renamed = of(parts)
    (parts / "day=1/4.parquet").unlink()
    assert len({before, changed, renamed, of(parts)}) == 4


def test_the_description_counts_but_not_its_comments(parts: Path, tmp_path: Path) -> None:
    description = tmp_path / "mine.yaml"
    DatasetSpec.load("simulator").save(description)
    before = of(parts, description)
    description.write_text(description.read_text() + "# a comment\n")
    assert of(parts, description) == before
    DatasetSpec.load("simulator").replace(window=5).save(description)
    assert of(parts, description) != before


def test_files_of_own_feature_views_count(parts: Path, tmp_path: Path) -> None:
    source = tmp_path / "scores.parquet"
    source.write_bytes(b"of yesterday")
    view = {
        "view": "scores",
        "source": "scores.parquet",
        "key": "user_id",
        "fields": [{"name": "score", "kind": "numeric"}],
    }
    description = tmp_path / "mine.yaml"
    DatasetSpec.from_dict({**DatasetSpec.load("simulator").to_dict(), "features": [view]}).save(description)
    before = of(parts, description)
    source.write_bytes(b"of today....")
    assert of(parts, description) != before

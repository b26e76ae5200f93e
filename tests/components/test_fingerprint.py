"""A log's content as the key under which what was made of it is kept."""
# No annotations from __future__: kfp reads those of the pipeline below as objects.

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kfp import dsl, local

from components.fingerprint import fingerprint
from components.ingest import ingest
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig
from pipelines.profile import LAPTOP


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_raw_log(tmp_path / "raw.csv", SimulatorConfig(users=20))
    return tmp_path / "raw.csv"


def change_one_row(raw: Path) -> None:
    rows = pd.read_csv(raw)
    rows.loc[3, "cost"] += 0.25
    rows.to_csv(raw, index=False)


def test_one_row_makes_the_difference(raw: Path) -> None:
    before = fingerprint.python_func(str(raw), "simulator")
    assert fingerprint.python_func(str(raw), "simulator") == before
    change_one_row(raw)
    assert fingerprint.python_func(str(raw), "simulator") != before


@pytest.mark.parametrize("source", ["", "none.csv"])
def test_without_a_log_the_step_ends_in_a_line(source: str) -> None:
    with pytest.raises(SystemExit, match=r"^mtorl: (source: give the path|none\.csv: no such file)"):
        fingerprint.python_func(source, "simulator")


@pytest.mark.long
def test_a_log_is_read_again_when_it_has_changed_and_only_then(raw: Path, tmp_path: Path) -> None:
    @dsl.pipeline(name="reading")
    def reading(source: str) -> int:
        content = LAPTOP.step(fingerprint(source=source, dataset="simulator")).output
        settings = {"source": source, "dataset": "simulator", "bad_rows": "fail", "users": 0, "seed": 7}
        read = ingest(**settings, content=content, collected="", decisions="", most_touchpoints=0, code_version="1")
        return LAPTOP.step(read).outputs["rows"]

    def read(number: int) -> list[Path]:
        """Folders in which the log was read."""
        root = tmp_path / f"run-{number}"
        settings: dict[str, Any] = {"enable_caching": True, "cache_root": str(tmp_path / "cache")}
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), **settings)
        reading(source=str(raw))
        return list(root.rglob("touchpoints.parquet"))

    assert read(1)
    assert not read(2)
    change_one_row(raw)
    assert read(3)

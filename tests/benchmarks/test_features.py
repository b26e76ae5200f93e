"""The scripts of benchmarks/: they start, measure memory, mix no figures, and the tables are those of the results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks._process import run
from benchmarks.feature_layer.log import generate
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import schema
from tests.repository import ROOT


@pytest.fixture
def script() -> Any:
    """benchmarks/features.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as when a script is run
        importlib.import_module("_environment")
    return importlib.import_module("benchmarks.features")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_each_script_starts_by_its_path(name: str, tmp_path: Path) -> None:
    """What lies beside it has names of packages that it needs."""
    if name == "tables.py":  # without arguments, it writes
        return
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and "--json" in found.stdout, found.stderr


def test_log_has_canonical_layout_and_time_order(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    found = generate(rows=50_000, path=str(log))
    written, canonical = pq.read_schema(log), schema(DatasetSpec.load("simulator"))
    assert (written.names, written.types) == (canonical.names, canonical.types)
    frame = pq.read_table(log).to_pandas()
    assert len(frame) == found["rows"] == 50_000
    assert frame["timestamp"].is_monotonic_increasing and frame["timestamp"].is_unique
    lengths = frame["user_id"].value_counts()
    assert len(lengths) == found["users"] and lengths.iloc[0] == found["longest"]
    assert found["longest"] > 20 * lengths.mean(), "journeys have a heavy tail"
    statics = frame.groupby("user_id")[["age_group", "tenure_days", "region"]].nunique()
    assert (statics == 1).all(axis=None)


def test_raw_log_has_what_has_to_be_cleaned(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    found = generate(rows=50_000, path=str(log), raw=True)
    with duckdb.connect() as connection:
        rows = connection.read_parquet(str(log)).df()
    assert found["rows"] == len(rows) == 50_500
    assert rows.duplicated(["user_id", "timestamp", "campaign_id", "channel"]).sum() >= 500
    late = rows["created_timestamp"] - rows["timestamp"] > pd.Timedelta(1, "s")
    assert 0.005 < late.mean() < 0.02


def hold(mib: int, child: bool = False) -> dict[str, Any]:
    """A task that holds memory, itself or in a child of its own."""
    code = f"x = bytearray({mib} * 2**20); import time; time.sleep(1)"
    if child:
        subprocess.run([sys.executable, "-c", code], check=True)
    held = bytearray(0 if child else mib * 2**20)
    return {"seconds": 1.0, "held": len(held)}


def fail() -> dict[str, Any]:
    raise ValueError("no such thing")


def test_a_task_reports_its_own_memory_and_its_childrens_not_its_parents() -> None:
    held = bytearray(400 * 2**20)
    held[::4096] = b"1" * len(held[::4096])  # resident in this process
    small, big, of_child = run(hold, mib=1), run(hold, mib=200), run(hold, mib=200, child=True)
    assert 190 < big["peak_mib"] - small["peak_mib"] < 230
    assert of_child["held"] == 0 and of_child["peak_mib"] - small["peak_mib"] > 200


def test_a_failing_task_raises() -> None:
    with pytest.raises(RuntimeError, match="ValueError: no such thing"):
        run(fail)


@pytest.mark.parametrize("other", [{"quick": False}, {"quick": True, "environment": {"cpu": "another"}}])
def test_figures_of_another_kind_or_machine_never_mix(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: dict[str, Any]
) -> None:
    written = tmp_path / "out.json"
    written.write_text(json.dumps(other))
    monkeypatch.setattr(sys, "argv", ["features.py", "--quick", "--only", "online", "--json", str(written)])
    with pytest.raises(SystemExit):
        script.main()
    assert json.loads(written.read_text()) == other


def test_tables_are_those_of_the_results(script: Any) -> None:
    """The pages under docs/tables say what benchmarks/results says, and there are no others."""
    tables = importlib.import_module("benchmarks.tables")
    assert tables.pages() == {page.stem: page.read_text() for page in (ROOT / "docs" / "tables").glob("*.md")}

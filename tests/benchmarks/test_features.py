"""The benchmark of the feature layer: its log, its processes, and that one failure loses nothing else."""

from __future__ import annotations

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
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import schema
from tests.repository import ROOT


def load(name: str) -> Any:
    """A module of the benchmark, as its children import it."""
    return importlib.import_module(f"benchmarks.feature_layer.{name}")


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
    found = load("log").generate(rows=50_000, path=str(log))
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
    found = load("log").generate(rows=50_000, path=str(log), raw=True)
    with duckdb.connect() as connection:
        rows = connection.read_parquet(str(log)).df()
    assert found["rows"] == len(rows) == 50_500
    assert rows.duplicated(["user_id", "timestamp", "campaign_id", "channel"]).sum() >= 500
    late = rows["created_timestamp"] - rows["timestamp"] > pd.Timedelta(1, "s")
    assert 0.005 < late.mean() < 0.02


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a task, a module's function, of its text."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(body: str) -> Any:
        (tmp_path / "tasks.py").write_text(body)
        sys.modules.pop("tasks", None)
        importlib.invalidate_caches()
        return importlib.import_module("tasks").task

    return make


def test_child_reports_its_own_memory_not_its_parents(task: Any) -> None:
    work = task("def task(size):\n    held = bytearray(size)\n    return {'n': len(held)}\n")
    held = bytearray(400 * 2**20)
    held[::4096] = b"1" * len(held[::4096])  # resident in this process
    small, big = run(work, size=1), run(work, size=200 * 2**20)
    assert small["n"] == 1 and small["peak_mib"] < 100
    assert 190 < big["peak_mib"] - small["peak_mib"] < 230


def test_child_counts_its_children(task: Any) -> None:
    work = task(
        "import subprocess, sys\n"
        "def task():\n"
        "    code = 'x = bytearray(200 * 2**20); import time; time.sleep(1)'\n"
        "    subprocess.run([sys.executable, '-c', code], check=True)\n"
        "    return {}\n"
    )
    assert run(work)["peak_mib"] > 200


def test_child_failure_comes_back_as_error(task: Any) -> None:
    work = task(
        "import os\ndef task(how):\n    if how == 'die': os._exit(3)\n    raise ValueError('no such\\nthing')\n"
    )
    assert run(work, how="raise") == {"error": "tasks:task: ValueError: no such thing"}
    assert "exit code 3" in run(work, how="die")["error"]


@pytest.mark.parametrize(("limits", "reason"), [({"limit_s": 0.5}, "after"), ({"limit_mib": 100}, "of memory")])
def test_child_is_stopped_at_a_limit(task: Any, limits: dict[str, float], reason: str) -> None:
    work = task("import time\ndef task():\n    x = bytearray(200 * 2**20)\n    time.sleep(600)\n    return {}\n")
    assert reason in run(work, **limits)["stopped"]


def test_a_failing_measure_loses_no_other(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"rows": 9, "start_seconds": 1.0, "seconds": 2.0, "peak_mib": 3.0, "manifest": {"content_sha256": "ab" * 32}}
    folders = []

    def broken(plan: object, folder: Path, say: object) -> dict[str, Any]:
        folders.append(folder)
        (folder / "big").write_text("x")
        raise RuntimeError("no luck")

    fine = {"log": {"rows": 9}, "duckdb": good, "spark": {"error": "no Java"}, "equal": False}
    monkeypatch.setattr(script, "MEASURES", {"online": broken, "spark": lambda *_: fine})
    written = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["features.py", "--quick", "--json", str(written)])
    assert script.main() == 1
    figures = json.loads(written.read_text())
    assert figures["online"] == {"error": "RuntimeError: no luck"} and figures["spark"] == fine
    assert {"cpu", "cores", "python", "duckdb"} <= set(figures["environment"])
    printed = capsys.readouterr()
    assert "| DuckDB | 2.00 s |" in printed.out and "| Spark, local | error |" in printed.out
    assert "failed: online: RuntimeError: no luck" in printed.err and "failed: spark.spark: no Java" in printed.err
    assert not folders[0].exists(), "scratch space is given back"

    monkeypatch.setattr(script, "MEASURES", {"online": lambda *_: {}, "spark": broken})
    monkeypatch.setattr(sys, "argv", ["features.py", "--quick", "--json", str(written), "--only", "online"])
    assert script.main() == 1, "the other measure's error still stands"
    assert json.loads(written.read_text())["spark"] == fine


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

"""Tests of the pipeline steps that prepare a log."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset

from components.build_features.component import build_features
from components.due.component import due
from components.fingerprint.component import fingerprint
from components.first_log.component import first_log
from components.ingest.component import ingest
from components.validate.component import validate
from monitoring.watch.state import STATE_FILE, RetrainRequest, State
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import INGEST_FILE
from mtorl.log.trainings import LogFacts, Training, add
from mtorl.runtime.snapshots import located
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig
from tests.components.artifacts import CODE, USERS, Output

NOW = datetime.now(UTC)


def put(volume: Path, output: Output, log: str = "", dataset: str = "simulator", simulate: bool = False) -> Path:
    quarantine, registry = output(Artifact, "quarantine"), str(volume / "registry")
    return Path(first_log.python_func(str(volume), log, dataset, simulate, "fail", 40, 7, registry, quarantine))


def test_a_first_log_is_simulated_only_on_request_and_then_kept(tmp_path: Path, output: Output) -> None:
    with pytest.raises(SystemExit, match="touchpoint log"):
        put(tmp_path, output)
    path = put(tmp_path, output, simulate=True)
    assert path == tmp_path / "touchpoints.parquet" and pd.read_parquet(path)["user_id"].nunique() == 40
    before = path.stat().st_mtime_ns
    assert put(tmp_path, output) == path and path.stat().st_mtime_ns == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no other file may be left"


def test_a_real_first_log_is_copied_in_a_readable_layout(tmp_path: Path, output: Output) -> None:
    log = pd.read_parquet(put(tmp_path / "made", output, simulate=True))
    log.sample(frac=1.0, random_state=1).to_csv(tmp_path / "log.csv", index=False)
    DatasetSpec.load("simulator").replace(adapter="touchpoints", name="shop").save(tmp_path / "shop.yaml")
    kept = pd.read_parquet(put(tmp_path / "volume", output, str(tmp_path / "log.csv"), str(tmp_path / "shop.yaml")))
    assert len(kept) == len(log) and kept["timestamp"].dt.tz is not None
    assert kept.equals(kept.sort_values(["user_id", "timestamp"], ignore_index=True))


def read(
    raw: Path | str, output: Output, bad_rows: str = "fail", content: str = ""
) -> tuple[Artifact, Artifact, tuple]:
    log, quarantine = output(Dataset, "log"), output(Artifact, "quarantine")
    content = content or fingerprint.python_func(str(raw), "simulator", "")[0]
    found = ingest.python_func(str(raw), "simulator", bad_rows, 0, 7, content, "", "", 0, "", "", CODE, log, quarantine)
    return log, quarantine, found


def test_a_file_of_the_simulators_log_gives_the_same_log(log: Artifact, output: Output, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv.gz"
    write_raw_log(raw, SimulatorConfig(users=USERS, seed=7))
    made, quarantine, found = read(raw, output)
    assert found == (len(pd.read_csv(raw)), USERS, 0) and Path(quarantine.path).read_text() == ""
    assert made.metadata["fingerprint"] == log.metadata["fingerprint"]


def test_steps_pass_paths_instead_of_copies(output: Output, tmp_path: Path) -> None:
    write_raw_log(tmp_path / "raw.csv", SimulatorConfig(users=30))
    place, name = str(tmp_path / "snapshots"), str(tmp_path / "raw.csv")
    content, generation = fingerprint.python_func(name, "simulator", place)
    log, windows, quarantine = output(Dataset, "log"), output(Dataset, "windows"), output(Artifact, "quarantine")
    given = (name, "simulator", "fail", 0, 7, content, "", "", 0, place, generation, CODE)
    rows, *_ = ingest.python_func(*given, log, quarantine)
    made = build_features.python_func(log, name, place, generation, CODE, windows, output(Artifact, "definitions"))
    assert rows == made == len(pd.read_csv(name))
    for artifact, kind in ((log, "log-"), (windows, "windows-")):
        assert [file.name for file in Path(artifact.path).iterdir()] == ["snapshot.json"]
        assert Path(artifact.metadata["snapshot"]).name.startswith(kind)
    history = tmp_path / "history"
    add(history, Training(at=NOW, log=LogFacts.of(located(log.path)), decision="promote", reason="better"))
    assert validate.python_func(log, str(history), "fail").startswith("+0 touchpoints")
    shutil.rmtree(log.metadata["snapshot"])
    with pytest.raises(FileNotFoundError, match="is missing"):
        validate.python_func(log, str(history), "fail")
    same, other = fingerprint.python_func(name, "simulator", place)
    assert same == content and other != generation, "the next run reads the log again"


def test_an_unusable_log_stops_the_step_with_one_line(output: Output, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    write_raw_log(raw, SimulatorConfig(users=20))
    rows = pd.read_csv(raw)
    rows.loc[3, "cost"] = -1.0
    rows.to_csv(raw, index=False)
    with pytest.raises(SystemExit, match=r"(?s)negative.*bad_rows to quarantine$"):
        read(raw, output)
    with pytest.raises(SystemExit, match="changed"):
        read(raw, output, "quarantine", content="of before")
    for source, words in (("", "source: give the path"), ("none.csv", r"none\.csv: no such file")):
        with pytest.raises(SystemExit, match=f"^mtorl: {words}"):
            read(source, output)


def trained(history: Path, log: LogFacts, ago: timedelta = timedelta(0)) -> None:
    add(history, Training(at=NOW - ago, log=log, decision="reject", reason="a test"))


@pytest.mark.integration
def test_a_log_that_lost_days_is_refused_and_one_that_grew_is_not(log: Artifact, tmp_path: Path) -> None:
    history = str(tmp_path / "trainings")
    assert validate.python_func(log, history, "fail") == validate.python_func(log, "", "fail")
    seen = LogFacts.of(Path(log.path))
    newest = max(seen.days)
    trained(Path(history), seen.model_copy(update={"days": {**seen.days, newest: 0}}))
    assert validate.python_func(log, history, "fail").startswith(f"+{seen.days[newest]:,} touchpoints")

    lost = {"days": {**seen.days, "2199-01-01": 10_000}, "channels": seen.channels[1:]}
    trained(Path(history), seen.model_copy(update=lost))
    said = validate.python_func(log, history, "accept")
    assert "has lost 10,000" in said and seen.channels[0] in said, "also names the new channel"
    faulty = Artifact(uri=str(shutil.copytree(log.path, tmp_path / "log")))
    report = Path(faulty.path) / INGEST_FILE
    report.write_text(json.dumps({**json.loads(report.read_text()), "quarantined": 2_000}))
    for shrunk, words in (("fail", r"10,000 of .* on 2199-01-01.*; 2,000 faulty rows"), ("perhaps", "'perhaps'")):
        with pytest.raises(SystemExit, match=words):
            validate.python_func(faulty, history, shrunk)


def test_training_is_due_initially_by_age_and_on_request_of_the_monitor(tmp_path: Path) -> None:
    history, monitor = tmp_path / "trainings", tmp_path / "monitor"
    shop = LogFacts(dataset="shop", channels=("search",), days={})
    assert due.python_func(str(history), "", 7.0) == "yes"
    trained(history, shop, timedelta(days=8))
    assert [due.python_func(str(history), "", days) for days in (7.0, 9.0, 0.0)] == ["yes", "no", "no"]
    trained(history, shop, timedelta(hours=10))
    for hours, answer in ((12, "no"), (8, "yes")):
        asked = RetrainRequest(since=NOW - timedelta(hours=hours), reason="device has moved", model_version="a")
        State(retrain=asked).write(monitor / STATE_FILE)
        assert due.python_func(str(history), str(monitor), 7.0) == answer
    trained(history, shop, timedelta(hours=1))
    assert due.python_func(str(history), str(monitor), 7.0) == "no", "the request was met"
    (monitor / STATE_FILE).write_text("{")
    with pytest.raises(SystemExit, match=STATE_FILE):
        due.python_func(str(history), str(monitor), 7.0)

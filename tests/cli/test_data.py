import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from cli.messages import LOG_AND_DATASET, NO_DAYS, NO_FOLDER, NO_USERS
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import write_log
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.waiting import eventually


@pytest.fixture
def clean(log: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    return path


@pytest.fixture
def faulty(log: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "faulty.csv"
    bad = log.assign(
        cost=log["cost"].where(log.index != 3, -2.0), channel=log["channel"].where(log.index != 7, "[fax]")
    )
    bad.to_csv(path, index=False)
    return path


def data(*arguments: object, **environment: str) -> Result:
    answer = CliRunner().invoke(app, ["data", *map(str, arguments)], env=environment)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["raw.csv.gz", "raw.parquet"])
def test_a_simulated_log_can_be_used_as_a_raw_log(name: str, tmp_path: Path) -> None:
    raw = tmp_path / name
    answer = data("simulate", raw, "--users", 50)
    assert answer.exit_code == 0 and "of 50 users" in answer.output and files(tmp_path) == {name}
    answer = data("validate", raw, "--dataset", "simulator")
    assert answer.exit_code == 0 and "of 50 users" in answer.output


def test_validate_quarantines_faulty_rows_in_the_given_file(
    clean: Path, faulty: Path, spec: Path, log: pd.DataFrame, tmp_path: Path
) -> None:
    before = files(tmp_path)
    assert data("validate", clean, "--dataset", spec, "--quarantine", tmp_path / "bad.csv").exit_code == 0
    answer = data("validate", faulty, "--dataset", spec)
    assert answer.exit_code == 1 and files(tmp_path) == before
    for word in ("negative_cost", "-2.0", "unknown_channel", "[fax]", f"{len(log) - 2:,} of"):
        assert word in answer.output, answer.output
    side = tmp_path / "side" / "bad.csv"
    assert data("validate", faulty, "--dataset", spec, "--quarantine", side).exit_code == 1
    assert pd.read_csv(side)["row"].tolist() == [4, 8]


@pytest.mark.parametrize("command", ["validate", "describe", "build"])
def test_unusable_input_gives_one_line_and_leaves_no_files(command: str, spec: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    out = [] if command == "validate" else ["--out", tmp_path / "out"]
    before = files(tmp_path)
    for arguments, words in (
        ([tmp_path / "missing.csv", "--dataset", spec], ["missing.csv", "no such file"]),
        ([empty, "--dataset", spec], ["empty.csv"]),
        ([empty, "--dataset", "no-such-dataset"], ["no-such-dataset", "kuairand-sequence"]),
    ):
        answer = data(command, *arguments, *out)
        assert answer.exit_code == 2, answer.output
        assert answer.output.startswith("mtorl: ")
        for word in words:
            assert word in answer.output
        assert files(tmp_path) == before
    if command != "validate":
        answer = data(command, empty, *out)
        assert answer.exit_code == 2 and "--dataset" in answer.output
        (tmp_path / "part-0.parquet").write_bytes(b"rubbish")
        answer = data(command, tmp_path / "part-0.parquet", "--trusted", "--dataset", spec, *out)
        assert answer.exit_code == 2 and "part-0.parquet" in answer.output


def test_describe_writes_one_page(faulty: Path, spec: Path, log: pd.DataFrame, tmp_path: Path) -> None:
    before = files(tmp_path)
    page = tmp_path / "pages" / "page.html"
    answer = data("describe", faulty, "--dataset", spec, "--out", page)
    assert answer.exit_code == 0, answer.output
    assert f"{len(log) - 2:,} touchpoints" in answer.output and "2 faulty rows" in answer.output
    assert files(tmp_path) - before == {"pages/page.html"}
    text = page.read_text(encoding="utf-8")
    assert "2 faulty rows" in text and "[fax]" in text
    answer = data("describe", "--out", page)
    assert answer.exit_code == 0 and "of 6,000 users" in answer.output, "defaults to the simulator"


def test_describe_does_not_validate_an_ingested_log(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    mine = DatasetSpec.load(spec)
    run, alone = tmp_path / "run" / "data", tmp_path / "elsewhere.parquet"
    odd = log.assign(cost=-1.0)  # validation would refuse this
    run.mkdir(parents=True)
    for path in (run / "touchpoints.parquet", alone):
        write_log(odd, path, mine)
    mine.save(run / "dataset.yaml")
    out = ["--out", tmp_path / "page.html"]
    answer = data("describe", run / "touchpoints.parquet", *out)
    assert answer.exit_code == 2 and "negative" in answer.output, "the name is no proof"
    (run / "ingest.json").write_text("{}")
    for args in ([tmp_path / "run"], [run], [run / "touchpoints.parquet"], [alone, "--trusted", "--dataset", spec]):
        answer = data("describe", *args, *out)
        assert answer.exit_code == 0, answer.output
        assert f"{len(log):,} touchpoints" in answer.output
    answer = data("describe", alone, "--dataset", spec, *out)
    assert answer.exit_code == 2 and "negative" in answer.output


def test_describe_and_build_accept_a_build(clean: Path, spec: Path, log: pd.DataFrame, tmp_path: Path) -> None:
    def build(*arguments: object) -> tuple[dict[str, Any], str]:
        """Run `mtorl data build`; returns the manifest and the fingerprint of the build."""
        answer = data("build", *arguments)
        assert answer.exit_code == 0, answer.output
        windows = Path(str(arguments[-1])) / "windows"
        return json.loads((windows / "manifest.json").read_text()), WindowTable.load(windows).fingerprint

    out = tmp_path / "made"
    manifest, fingerprint = build(clean, "--dataset", spec, "--out", out)
    assert manifest["rows"] == len(log)
    assert fingerprint == json.loads((out / "ingest.json").read_text())["fingerprint"]
    assert {"dataset.yaml", "ingest.json", "touchpoints.parquet", "sources/user_channel.parquet"} <= files(out)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    for path in (out, out / "windows"):
        answer = data("describe", path, "--out", tmp_path / "page.html")
        assert answer.exit_code == 0 and f"{len(log):,} touchpoints" in answer.output, answer.output
    again, _ = build(out, "--out", out)
    assert again["content_sha256"] == manifest["content_sha256"] and "touchpoints.parquet" in files(out)
    # With --trusted, the log isn't copied into the build.
    alone = tmp_path / "again"
    trusted, known_by = build(out / "touchpoints.parquet", "--trusted", "--dataset", spec, "--out", alone)
    assert trusted["content_sha256"] == known_by == manifest["content_sha256"]
    assert "touchpoints.parquet" not in files(alone)
    shutil.copytree(out, tmp_path / "cut")
    log.head(30).to_parquet(tmp_path / "cut" / "touchpoints.parquet")
    assert build(tmp_path / "cut", "--out", tmp_path / "shorter")[1] not in (fingerprint, known_by)


def test_build_refuses_folders_with_other_files(clean: Path, spec: Path, tmp_path: Path) -> None:
    theirs, made = tmp_path / "theirs", tmp_path / "made"
    (theirs / "windows").mkdir(parents=True)
    (theirs / "ledger.db").write_text("money")
    assert data("build", clean, "--dataset", spec, "--out", made).exit_code == 0
    raw = Path(shutil.copy(clean, made))
    for log, out in ((clean, theirs), (raw, made)):
        before = files(out)
        answer = data("build", log, "--dataset", spec, "--out", out)
        assert answer.exit_code == 2 and "another --out" in answer.output
        assert files(out) == before


@pytest.mark.integration
def test_ctrl_c_in_a_query_keeps_the_previous_build(clean: Path, log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "made", tmp_path / "big.parquet"
    assert data("build", clean, "--dataset", spec, "--out", out).exit_code == 0
    before = {name: (out / name).read_bytes() for name in files(out)}
    big = pd.concat([log.assign(user_id=log["user_id"] + f"-{i}") for i in range(3000)])
    write_log(big, path, DatasetSpec.load(spec))
    command = [sys.executable, "-m", "cli.main", "data", "build", path, "--trusted", "--dataset", spec, "--out", out]
    started = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    eventually(lambda: started.poll() is not None or list(tmp_path.glob(".made.*/sources")), 300)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate()
    assert started.returncode == 130 and said.splitlines()[-1] == "mtorl: stopped", said
    assert set(os.listdir(tmp_path)) == {"big.parquet", "log.csv", "made", "my-log.yaml"}
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def test_forget_reports_removals_and_is_idempotent(log: pd.DataFrame, tmp_path: Path) -> None:
    write_log(log, tmp_path / "data" / "touchpoints.parquet", DatasetSpec.load("simulator"))
    ids = tmp_path / "ids.txt"
    first, second = log["user_id"].unique()[:2]
    ids.write_text(f"{second}\n\n")
    command = ["forget", tmp_path / "data", "--user", first, "--users-file", ids]
    rows = log["user_id"].isin([first, second]).sum()
    for words in (f"{rows} removed from touchpoints.parquet", "nothing left in touchpoints.parquet"):
        done = data(*command)
        assert done.exit_code == 0 and words in done.output
    (tmp_path / "data" / "touchpoints.parquet").write_bytes(b"PAR1")
    done = data(*command)
    assert done.exit_code == 1 and "not done: touchpoints.parquet: " in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], NO_USERS()),
        (["--older-than", "0"], NO_DAYS(days=0.0)),
        (["--user", "u1", "--users-file", "none.txt"], "none.txt"),
        (["--user", "u1", "--log", "log.csv"], LOG_AND_DATASET()),
        (["--user", "u1", "--feature-repo", "none"], "none: not a Feast repository"),
    ],
)
def test_forget_refuses_invalid_arguments(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["data", "forget", str(tmp_path), *arguments])
    assert done.exit_code == 2 and words in done.output
    assert NO_FOLDER(folder="none") in CliRunner().invoke(app, ["data", "forget", "none", "--user", "u1"]).output


def test_compact_reports_counts_and_training_rows(tmp_path: Path) -> None:
    lake = write(tmp_path / "lake", [decision("d")], [outcome("d-cost", "d")])
    answer = data("compact", lake)
    assert answer.exit_code == 0 and f"{lake}: 2 files" in answer.output
    SPEC.save(tmp_path / "toy.yaml")
    answer = data("compact", lake, "--dataset", tmp_path / "toy.yaml")
    assert answer.exit_code == 0 and "0 files" in answer.output and "1 opportunities" in answer.output
    (damaged := lake / "arrived/outcomes/date=2026-01-01/hour=12/x.parquet").parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("rubbish")
    answer = data("compact", lake)
    assert answer.exit_code == 1 and "hour=12/x.parquet" in answer.output and not damaged.exists()
    assert data("compact", "ftp://nowhere").exit_code == 2

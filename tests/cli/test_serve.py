import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cli.main import app
from cli.messages import SAME_NAME
from cli.run import served_files, share_log, silent_arms
from pipelines.loop.run_folder import finish
from serving.messages import OWN_LOG
from serving.router.messages import MODEL_CHANGED, NO_ANSWER
from tests.features.collect.decision_logs import SPEC
from tests.mtorl.experiment.experiments import FILE
from tests.pipelines.experiments.test_local_servers import LATER, OLD, PORT, WON, run_with, without_server


def made(file: Path, **changes: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({**FILE, "name": file.stem, **changes}))
    return file


def served(*files: Path) -> dict[str, Path]:
    dataset = files[0].with_name("dataset.yaml")
    SPEC.save(dataset)
    return served_files({file: file.with_suffix("") for file in files}, dataset)


def test_each_experiment_is_read_from_its_state_and_conflicts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"spring": [0, 0.5], "autumn": [0.5, 1]}
    assert served(*(made(tmp_path / f"{name}.yaml", layer_part=part) for name, part in parts.items())) == {
        f"{name}.yaml": tmp_path / name / "experiment.yaml" for name in parts
    }
    same = [made(tmp_path / name / "same.yaml", name=name, layer_part=part) for name, part in parts.items()]
    for files, words in (
        ([made(tmp_path / f"{name}.yaml") for name in parts], "autumn and spring both decide"),
        (same, SAME_NAME(files=same)),
    ):
        with pytest.raises(typer.Exit) as ended:
            served(*files)
        assert ended.value.exit_code == 2 and words in capsys.readouterr().err


def test_experiments_share_the_log_of_the_first(tmp_path: Path) -> None:
    first, other = tmp_path / "spring", tmp_path / "autumn"
    for _ in range(2):  # without a log, then with one
        share_log(first, other)
        (first / "spool").mkdir(parents=True, exist_ok=True)
        (first / "router.yaml").write_text("port: 0\n")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    (first / "models" / "incumbent.mar").touch()
    tmp_path.rename(moved)
    assert (moved / "autumn" / "models" / "incumbent.mar").exists(), "a promotion is kept when served alone"
    assert (moved / "autumn" / "router.yaml").read_text() == "port: 0\n" and (moved / "autumn" / "spool").is_dir()


def test_its_own_log_is_kept_when_served_with_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "autumn" / "spool").mkdir(parents=True)
    with pytest.raises(typer.Exit):
        share_log(tmp_path / "spring", tmp_path / "autumn")
    spool = tmp_path / "autumn" / "spool"
    assert OWN_LOG(link=spool) in capsys.readouterr().err and not spool.is_symlink()


def test_a_runs_own_file_with_custom_endpoints_is_refused(tmp_path: Path) -> None:
    """With endpoints from the file, `mtorl serve` cannot derive the port of the model server."""
    finish(tmp_path, "train", {})
    (tmp_path / "artifacts" / "challenger").mkdir(parents=True)
    SPEC.save(tmp_path / "artifacts" / "challenger" / "dataset.yaml")
    names = ("incumbent", "challenger", "vendor")
    arms = [{"name": name, "weight": 0.25, "endpoint": f"http://127.0.0.1:{8085 + len(name)}"} for name in names]
    made(tmp_path / "serving.yaml", arms=[{**arms[0], "weight": 0.5}, *arms[1:]])
    done = CliRunner().invoke(app, ["serve", "--run", str(tmp_path)])
    assert done.exit_code == 2 and f"--experiment {tmp_path / 'serving.yaml'} --models-port PORT" in done.stderr


def test_serve_hands_over_a_promotion_before_checking_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promoted model replaces the baseline before the edited experiment file is checked and rejected."""
    laptop = without_server(tmp_path, "baseline")
    laptop.do("promoted")
    tonight = run_with(tmp_path / "runs" / "two", incumbent="another", challenger=LATER)
    finish(tonight, "train", {})
    started: list[dict[str, Path]] = []

    class Stack:
        def __init__(self, run: Path, own: Any, **ports: int) -> None:
            self.serving, self._own = own.state, own

        def claim(self) -> None:
            self.serving.mkdir(exist_ok=True)

        def __enter__(self) -> None:
            started.append(dict(self._own.experiments))
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr("serving.local.stack.LocalStack", Stack)
    file = laptop.folder.file
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "salt": "next"}))
    asked = ["serve", "--run", str(tonight), "--experiment", str(file)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and f"promotion: incumbent serves {WON} in place of {OLD}" in refused.stdout
    (line,) = yaml.safe_load(refused.stderr.split("`")[1])
    url = f"http://127.0.0.1:{PORT}/v1/models/incumbent:predict"
    assert line == {"name": "incumbent", "weight": 0.5, "endpoint": url}
    fields = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**fields, "arms": [line, fields["arms"][1]]}))
    CliRunner().invoke(app, asked)
    assert started == [{"first-day.yaml": laptop.folder.in_force}]


def test_silent_arms_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert silent_arms("http://127.0.0.1:9") == {}, "an unreachable router must not stop `mtorl serve`"
    silent, changed = NO_ANSWER(seconds=3, cause="ArmError"), MODEL_CHANGED(now="a", since="noon", before="b")
    problems = {"ledger": [silent.body], "spring/a": [silent.body], "spring/b": [changed.body]}
    answer = SimpleNamespace(content=json.dumps({"problems": problems}))
    monkeypatch.setattr("cli.run.send_request", lambda *_, **__: answer)
    assert silent_arms("http://router") == {"spring/a": silent}

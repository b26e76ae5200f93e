import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from monitoring.verdict.verdict import verdict_from_log
from mtorl.experiment.inference import plan
from pipelines.messages import NO_STATE
from serving.messages import PRICE_IGNORED
from tests.experiments import experiment
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.features.collect.small_model import WINDOW, save_small_model
from tests.features.collect.test_shadows import MINE, SURE, shadow


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    SPEC.save(tmp_path / "dataset.yaml")
    metrics = {"primary": "click_per_decision", "outcome_hours": None}
    content = experiment("http://arms", name="first", salt="s", default_channel="search", metrics=metrics)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    decisions = [decision(f"d{n}", n, **MINE, **SURE, user_id=f"u{n}") for n in range(20)]
    costs = [outcome(f"c{n}", f"d{n}", minutes=n + 1) for n in range(20)]
    said = {"channel": "video", "expose": True, "exploration": None, "channel_probs": {}, "exposure_probs": {}}
    log = write(tmp_path / "log", decisions, costs, [shadow(f"d{n}", **said) for n in range(20)])
    return {"log": str(log), "dataset": str(tmp_path / "dataset.yaml"), "file": str(tmp_path / "experiment.yaml")}


def mtorl(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


def figures(*arguments: str) -> Any:
    done = mtorl(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


SEARCH = {"campaign": "*", "channel": "search", "amount": 100}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, 0, ["first, stage 50%", "incumbent: http://arms/v1/models/incumbent:predict", "50%: incumbent 50%"]),
        ({"enabled": False}, 0, ["first, switched off\n"]),
        ({"default_channel": "radio"}, 2, ["'radio' is not one of search", "docs/experiment-file.md"]),
        ({"budgets": [{**SEARCH, "channel": "TV"}]}, 2, ["budgets[0]: 'TV' is not one of search, social"]),
        ({"budgets": [SEARCH]}, 0, ["no budget covers social, display, video: nothing is shown there"]),
    ],
)
def test_check_reports_shares(files: dict[str, str], changes: dict[str, Any], code: int, words: list[str]) -> None:
    content = yaml.safe_load(Path(files["file"]).read_text())
    Path(files["file"]).write_text(yaml.safe_dump({**content, **changes}))
    done = mtorl("check", files["file"], "--dataset", files["dataset"])
    assert done.exit_code == code and all(said in done.output for said in words), done.output


def test_a_ramp_is_checked_as_a_draft_and_at_each_stage(files: dict[str, str]) -> None:
    content = yaml.safe_load(Path(files["file"]).read_text())
    ramp = {"stages": [{"stage": "shadow"}, {"stage": "1%"}, {"stage": "50%"}]}
    arms = [{**content["arms"][0], "endpoint": None, "policy": "baseline"}, *content["arms"][1:]]
    changes = {"budgets": [{**SEARCH, "channel": "*", "period": "day"}], "ramp": ramp, "arms": arms}
    Path(files["file"]).write_text(yaml.safe_dump({**content, **changes}))
    done = mtorl("check", files["file"], "--dataset", files["dataset"])
    assert done.exit_code == 0, done.output
    assert "a draft" in done.output and "stage 50%" not in done.output
    assert "    1%: incumbent 99%, challenger 1%\n" in done.output and "    1%: incumbent 99.00, chal" in done.output
    assert f"incumbent is not paced: {PRICE_IGNORED()}\n" in done.output and "challenger is not" not in done.output
    changes |= {"overrides": {"qa": "challenger"}}
    Path(files["file"]).write_text(yaml.safe_dump({**content, **changes}))
    found = figures("check", files["file"], "--dataset", files["dataset"])
    assert (found["overrides"], found["stage"]) == ({"qa": "challenger"}, "50%")
    assert {account["arm"] for account in found["accounts"]} >= {"*", "override"}


def test_the_shadow_is_reported_in_words_and_as_json(files: dict[str, str]) -> None:
    options = ["--experiment", files["file"], "--dataset", files["dataset"]]
    done = mtorl("verdict", files["log"], "--shadow", *options, "--by", "device")
    assert done.exit_code == 0, done.output
    assert "20 decisions" in done.output and "action 0.0%" in done.output
    report = figures("verdict", files["log"], "--shadow", *options, "--by", "device")["challenger"]
    assert report["channels"] == [{"incumbent": "search", "challenger": "video", "decisions": 20}]
    assert report["segments"]["device"][0]["segment"] == "phone"


def test_an_error_names_the_given_lake(files: dict[str, str], tmp_path: Path) -> None:
    options = ["--experiment", files["file"], "--dataset", files["dataset"]]
    (state := tmp_path / "state").mkdir()
    (state / "router.yaml").write_text(yaml.safe_dump({"lake": str(tmp_path / "nothing-yet")}))
    done = mtorl("verdict", str(state), *options)
    assert done.exit_code == 1 and f"{tmp_path / 'nothing-yet'}: no decisions" in done.output, done.output
    (tmp_path / "empty").mkdir()
    done = mtorl("verdict", str(tmp_path / "empty"), *options)
    assert done.exit_code == 2 and NO_STATE(place=tmp_path / "empty") in done.output
    done = mtorl("verdict", str(tmp_path / "absent"))
    assert done.exit_code == 2 and f"{tmp_path / 'absent'}:" in done.output
    other = write(tmp_path / "other", [decision("d", **MINE, **SURE)])
    for command in (["verdict", "--shadow"], ["plan", "--model", str(tmp_path)]):
        done = mtorl(command[0], str(other), *options, *command[1:])
        assert done.exit_code == 2 and f"mtorl: {other}: " in done.output, done.output


def test_exploration_is_planned(files: dict[str, str], tmp_path: Path) -> None:
    save_small_model(tmp_path / "model")
    options = ["--experiment", files["file"], "--dataset", files["dataset"], "--model", str(tmp_path / "model")]
    decisions = [decision(f"d{n}", n, **MINE, **SURE, user_id=f"u{n}", window=WINDOW) for n in range(20)]
    clicks = [outcome(f"c{n}", f"d{n}", "click", 1.0, minutes=n + 1) for n in range(20)]
    write(Path(files["log"]), decisions, clicks)
    options += ["--arm", decisions[0]["arm"]]
    plan = figures("plan", files["log"], *options)
    assert plan["lift"] == 0.05 and {option["scope"] for option in plan["options"]} == {"channel", "exposure", "both"}
    assert mtorl("plan", files["log"], *options, "--decisions-a-day", "1000").exit_code == 0
    for wrong in (["--effect", "0"], ["--decisions-a-day", "-1"], ["--arm", "nobody"]):
        assert mtorl("plan", files["log"], *options, *wrong).exit_code == 2


def test_a_verdict_and_its_segments_read_the_same_records(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, shares = Path(files["log"]), {"incumbent": 0.5, "challenger": 0.5}
    ours = {"layer": "l", "stage": "50%", "shares": shares, "assignment_probability": 0.5}

    def upload(first: int) -> None:
        decisions = [decision(f"d{n}", n, **MINE, **SURE, **ours, user_id=f"u{n}") for n in range(first, first + 20)]
        shutil.copytree(write(tmp_path / "more", decisions), log, dirs_exist_ok=True)

    def judged_and_uploaded(*arguments: Any, **options: Any) -> dict[str, Any]:
        found = verdict_from_log(*arguments, **options)
        upload(70)
        return found

    upload(50)
    monkeypatch.setattr("monitoring.verdict.period.verdict_from_log", judged_and_uploaded)
    options = ["--experiment", files["file"], "--dataset", files["dataset"]]
    found = figures("verdict", files["log"], *options, "--by", "device")
    (phone,) = found["segments"]["lifts"]["device"]
    assert phone["decisions"] == sum(arm["decisions"] for arm in found["arms"].values()) == 20


def test_the_state_folder_of_a_router_locates_its_files(files: dict[str, str]) -> None:
    settings = {"experiment": files["file"], "dataset": files["dataset"], "lake": files["log"]}
    Path(files["log"], "router.yaml").write_text(yaml.safe_dump(settings))
    assert mtorl("verdict", files["log"], "--shadow").exit_code == 0
    several = Path(files["log"], "experiments")
    several.mkdir()
    (several / "mine.yaml").symlink_to(Path(files["file"]).resolve())
    Path(files["log"], "router.yaml").write_text(yaml.safe_dump({**settings, "experiment": str(several)}))
    assert mtorl("verdict", files["log"]).exit_code == 0
    (several / "other.yaml").symlink_to(Path(files["file"]).resolve())
    done = mtorl("verdict", files["log"])
    assert done.exit_code == 2 and "--experiment" in done.output, "two experiments are ambiguous"
    (several / "mine.yaml").rename(several / f"{Path(files['log']).name}.yaml")
    assert mtorl("verdict", files["log"]).exit_code == 0, "the folder's name decides"
    file = Path(files["log"]).with_suffix(".yaml")
    file.write_text(Path(files["file"]).read_text())
    assert mtorl("verdict", str(file)).stdout == mtorl("verdict", files["log"]).stdout != "", "the file works as well"


def test_plan_has_users_days_and_money(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_RUNS", (100, 100))
    decisions = [decision(f"d{n}", n, **MINE, **SURE, arm="incumbent", user_id=f"u{n}") for n in range(200)]
    outcomes = [outcome(f"c{n}", f"d{n}", minutes=n + 1) for n in range(200)]
    outcomes += [outcome(f"k{n}", f"d{n}", "click", 1.0, n + 1) for n in range(0, 200, 3)]
    log, file = str(write(tmp_path / "plan", decisions, outcomes)), Path(files["file"])
    options = ["--effect", "0.3", "--experiment", str(file), "--dataset", files["dataset"]]
    found = figures("plan", log, *options, "--users-a-day", "1")
    assert found["days"] == pytest.approx(found["users"]) and found["cost"] == pytest.approx(found["users"] * 0.03)
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "covariates": "past"}))
    said = mtorl("plan", log, *options).output
    assert "--users-a-day" in said and "covariates" in said
    assert mtorl("plan", log, *options, "--effect", "0").exit_code == 2


@pytest.mark.parametrize(("token", "code"), [("srm", 4), ("guardrail", 5), ("stop", 0), ("ship", 0)])
def test_a_verdict_that_needs_action_has_an_exit_code(
    token: str, code: int, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {**verdict_from_log(*arguments, **options), "verdict": token}

    monkeypatch.setattr("monitoring.verdict.period.verdict_from_log", judged)
    options = ["--experiment", files["file"], "--dataset", files["dataset"]]
    assert mtorl("verdict", files["log"], *options, "--json").exit_code == code

"""Tests that a run's experiment goes through its stages as in `mtorl experiment run`."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monitoring.experiments.findings import Findings
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.stage_machine import ArmEvidence, Evidence
from mtorl.experiment.stages import Ramp
from pipelines.loop import online, ramp
from pipelines.loop.ramp import RunRamp, experiment_of, port_of_models, ramp_for, write_file
from pipelines.loop.traffic import LoadDriver, Traffic, in_parts
from pipelines.steps import StepTimes
from serving.local.stack import LocalStack
from tests.experiments import experiment

USERS = {f"u{n}": 5 for n in range(100)}


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_any_number_of_users_has_a_ramp_from_shadow_to_half(users: int, users_at_once: int) -> None:
    made = Ramp.model_validate(ramp_for(users, min(users, users_at_once)))
    stages = [step.stage for step in made.stages]
    assert stages[0] == "shadow" and stages[-1] == "50%" and made.promote
    assert all(1 <= step.users <= users and step.hours == 0 for step in made.stages)


def test_a_small_stage_has_challenger_users() -> None:
    def of(users: int) -> list[str]:
        return [step["stage"] for step in ramp_for(users, users)["stages"]]

    assert of(200) == ["shadow", "5%", "50%"] and of(40) == ["shadow", "25%", "50%"] and of(10) == ["shadow", "50%"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    arms = [
        {"name": name, "weight": 0.5, "endpoint": "http://127.0.0.1:23456", "model_digest": name[:2]}
        for name in ("incumbent", "challenger")
    ]
    metrics = {"primary": "click_per_decision", "outcome_hours": None}
    ramp = ramp_for(len(USERS), len(USERS))
    content = experiment("", arms=arms, metrics=metrics, ramp=ramp, min_runtime_hours=0)
    del content["stage"]
    write_file(tmp_path, yaml.safe_dump(content))
    return tmp_path


def said(token: str, reason: str = "as it is", **arm: Any) -> Evidence:
    arms = {name: ArmEvidence(**{"users": 50, **arm}) for name in ("incumbent", "challenger")}
    return Evidence(cast(Any, token), reason, "challenger", ("cost is worse",) if token == "guardrail" else (), arms)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Evidence]]:
    """Yield a list for evidence; each read of the log removes the first entry."""
    found: list[Evidence] = []
    monkeypatch.setattr(ramp, "findings_or_error", lambda *_: Findings(evidence=found.pop(0)))
    yield found
    assert not found, "some of the prepared evidence was never read"


class Sent:
    """Records calls in place of the load driver and the servers."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.stages, self.waits = folder, list[tuple[str, int]](), 0

    def send(self, source: Any, label: str, on_done: Any, part: Any, before: Traffic) -> Traffic:
        served = Experiment.load(self.folder.in_force)
        self.stages.append((served.stage if served.enabled else "off", len(part)))
        for turn, user in part:
            before.latencies.append(0.01)
            before.weights[f"{turn}-{user}"] = 1.0
        return before

    def wait_for_experiment(self) -> None:
        self.waits += 1

    def wait_for_lake(self) -> None:
        pass


def through(run: Path, turns: int = 5) -> tuple[Sent, RunRamp, Traffic]:
    began = RunRamp(experiment_of(run))
    began.start()
    sent = Sent(began.folder)
    source = cast(Any, SimpleNamespace(opportunities=dict.fromkeys(USERS, turns)))
    times = StepTimes(lambda *_: None)
    driver, stack = cast(LoadDriver, sent), cast(LocalStack, sent)
    return sent, began, online._through_stages(driver, stack, began, in_parts(source, 2), source, None, times)


def test_from_draft_to_promotion(run: Path, looks: list[Evidence]) -> None:
    assert not Experiment.load(run / "serving" / "experiment.yaml").enabled  # a draft serves nobody
    looks += [said("inconclusive"), said("inconclusive"), said("ship", "better")]
    sent, ended, traffic = through(run)
    assert sent.stages == [("shadow", 100), ("5%", 100), ("50%", 300)] and sent.waits == 3
    assert len(traffic.latencies) == 500 and ended.over and ended.last_stage == "50%"
    told = ended.summary()
    assert told["phase"] == "promoted" and told["waits"] == [] and json.dumps(told)
    assert [(move["to"], move["by"]) for move in told["moves"]] == [
        ("shadow", "person"),
        ("5%", "ramp"),
        ("50%", "ramp"),
        ("promoted", "ramp"),
    ]
    assert told["moves"][-1]["reason"] == "better" and told["moves"][1]["users"] == {"incumbent": 50, "challenger": 50}
    served = Experiment.load(run / "serving" / "experiment.yaml")
    assert served.arm("incumbent").url == "http://127.0.0.1:23456/v1/models/challenger:predict"
    assert served.arm("incumbent").model_digest == "ch" and served.shares()["incumbent"] == 1.0


def test_a_stage_with_too_little_evidence_gets_more_traffic(run: Path, looks: list[Evidence]) -> None:
    looks += [said("inconclusive", fallback_ratio=0.5), said("inconclusive"), said("inconclusive"), said("ship")]
    sent, ended, _ = through(run)
    assert sent.stages == [("shadow", 100), ("shadow", 100), ("5%", 100), ("50%", 200)] and ended.phase == "promoted"


def test_harm_stops_the_traffic(run: Path, looks: list[Evidence]) -> None:
    looks += [said("inconclusive"), said("guardrail")]
    _, ended, traffic = through(run)
    assert ended.phase == "rolled back" and len(traffic.latencies) == 200 and ended.last_stage == "5%"
    assert ended.summary()["moves"][-1]["reason"] == "cost is worse"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8070/decide", "http://models.example.com", None])
def test_a_file_with_other_endpoints_is_refused_with_instructions(run: Path, endpoint: str | None) -> None:
    assert port_of_models(experiment_of(run)) == 23456
    file = run / "serving.yaml"
    content = yaml.safe_load(file.read_text())
    answers = {"policy": "baseline"} if endpoint is None else {"endpoint": endpoint}
    own = [{"name": arm["name"], "weight": 0.5, **answers} for arm in content["arms"]]
    content["arms"] = own if endpoint is None else [content["arms"][0], own[1]]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=f"mtorl serve --run {run} --experiment {file} --models-port PORT"):
        port_of_models(experiment_of(run))

"""The verdict read from a decision log: who counts, for which arm, with which weight."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog, Period
from monitoring.experiment_metrics import METRICS, Metric
from monitoring.period import verdict_of_period
from monitoring.verdict import verdict_from_log
from mtorl.experiment.experiment import Experiment
from tests.monitoring.judged_experiment import CONTENT

EXPERIMENT = Experiment.from_dict(CONTENT)


class Log:
    """A decision log that is written row by row."""

    def __init__(self) -> None:
        self.decisions: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []

    def decide(self, user: str, arm: str, **other: Any) -> str:
        minutes = len(self.decisions)
        row = {
            "decision_id": f"d{minutes}",
            "user_id": user,
            "experiment": "test",
            "arm": arm,
            "assignment_probability": 0.5,
            "stage": "50%",
            "expose": True,
            "fallback_reason": None,
            "withdrawn": False,
            "latency_seconds": 0.01,
            "event_time": (pd.Timestamp("2025-03-01", tz="UTC") + pd.Timedelta(minutes=minutes)).isoformat(),
        }
        self.decisions.append(row | other)
        return str(row["decision_id"])

    def learn(self, decision: str, kind: str, value: float) -> None:
        event = {"event_id": f"e{len(self.outcomes)}", "event_time": self.decisions[-1]["event_time"]}
        self.outcomes.append({**event, "decision_id": decision, "kind": kind, "value": value})

    def write(self, folder: Path) -> DecisionLog:
        decisions, outcomes = folder / "decisions.parquet", folder / "outcomes.parquet"
        pd.DataFrame(self.decisions).astype({"fallback_reason": "string"}).to_parquet(decisions)
        columns = {
            "event_id": "string",
            "decision_id": "string",
            "kind": "string",
            "value": "float64",
            "event_time": "string",
        }
        pd.DataFrame(self.outcomes, columns=list(columns)).astype(columns).to_parquet(outcomes)
        return DecisionLog(decisions, outcomes)


def traffic(users: int, challenger_rate: float, rounds: int = 3, seed: int = 0) -> Log:
    rng = np.random.default_rng(seed)
    log = Log()
    for user in range(users):
        arm = "challenger" if user % 2 else "incumbent"
        for _ in range(rounds):
            decision = log.decide(f"u{user}", arm)
            log.learn(decision, "cost", 0.2)
            if rng.random() < (challenger_rate if arm == "challenger" else 0.2):
                log.learn(decision, "click", 1.0)
    return log


def test_a_clear_win_ships_and_the_dict_is_json(tmp_path: Path) -> None:
    log = traffic(600, 0.5)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["verdict"] == "ship" and found["srm_p"] == 1.0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    clicks = sum(row["kind"] == "click" for row in log.outcomes)
    assert sum(arm["gain"] for arm in found["arms"].values()) == clicks
    challenger = found["arms"]["challenger"]
    assert (challenger["users"], challenger["decisions"], challenger["exposures"]) == (300, 900, 900)
    assert challenger["cost"] == pytest.approx(180.0) and challenger["cost_per_decision"] == pytest.approx(0.2)
    assert challenger["gain_per_decision"] == pytest.approx(challenger["gain"] / 900)
    assert found["lift"] == pytest.approx(
        challenger["gain_per_decision"] - found["arms"]["incumbent"]["gain_per_decision"]
    )
    assert (
        found["lift_ci"][0]
        < found["lift_ci_fixed"][0]
        < found["lift"]
        < found["lift_ci_fixed"][1]
        < found["lift_ci"][1]
    )
    assert found["guardrails"][0]["state"] == "held"
    assert found["secondary"]["exposure_ratio"]["lift"] == 0.0


def test_the_series_ends_where_the_verdict_stands(tmp_path: Path) -> None:
    found = verdict_from_log(traffic(400, 0.3).write(tmp_path), EXPERIMENT)
    users = [look["users"] for look in found["series"]]
    assert len(users) == 30 and users == sorted(set(users)) and users[0] == 100 and users[-1] == 400
    last = found["series"][-1]
    assert [last["lo"], last["hi"]] == found["lift_ci"] and last["lift"] == found["lift"]


def test_who_counts(tmp_path: Path) -> None:
    log = traffic(200, 0.2)
    clean = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    for other in (
        {"experiment": "another"},
        {"stage": "5%", "assignment_probability": 0.05},
        {"assignment_probability": 1.0},
    ):
        log.learn(log.decide("u0", "challenger", **other), "click", 1.0)
    log.learn("nobody", "click", 1.0)
    log.decisions.append(log.decisions[0])
    log.outcomes.append(log.outcomes[0])
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["left_out"] == {"not_randomised": 1, "other_experiment": 1, "other_stage": 1}
    for key in ("arms", "lift", "lift_ci", "srm_p", "multiple_exposure_users", "series"):
        assert found[key] == clean[key]


def test_fallbacks_count_for_the_assigned_arm(tmp_path: Path) -> None:
    log = traffic(200, 0.2)
    log.decide("u1", "challenger", expose=False, fallback_reason="model_timeout")
    arm = verdict_from_log(log.write(tmp_path), EXPERIMENT)["arms"]["challenger"]
    assert (arm["decisions"], arm["exposures"], arm["fallbacks"]) == (301, 300, 1)


def test_users_in_two_arms_are_a_fault(tmp_path: Path) -> None:
    log = traffic(200, 0.5)
    log.decide("u1", "incumbent")
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["multiple_exposure_users"] == 1 and found["arms"]["challenger"]["users"] == 99
    for user in range(10):
        log.decide(f"u{user}", "incumbent")
        log.decide(f"u{user}", "challenger")
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["verdict"] == "inconclusive" and "two arms" in found["reason"]


def test_replay_weights(tmp_path: Path) -> None:
    log = Log()
    weights = []
    for user in range(120):
        arm = "challenger" if user % 2 else "incumbent"
        matched, unknown, idle = (log.decide(f"u{user}", arm, expose=e) for e in (True, True, False))
        log.learn(matched, "click", 1.0 if user % 4 == 1 else 0.0)
        weights += [(matched, 4.0), (unknown, 0.0), (idle, 1.0)]
    lost = log.decide("u0", "incumbent")  # without a weight: not evaluable
    log.learn(lost, "click", 1.0)
    frame = pd.DataFrame(weights, columns=["decision_id", "weight"])
    found = verdict_from_log(replace(log.write(tmp_path), weights=frame), EXPERIMENT, "click")
    challenger, incumbent = found["arms"]["challenger"], found["arms"]["incumbent"]
    assert challenger["gain_per_decision"] == pytest.approx(4.0 * 30 / (60 * 5))
    assert incumbent["gain_per_decision"] == 0.0 and incumbent["gain"] == 1.0
    assert challenger["decisions"] == 180 and challenger["evaluable"] == 120
    assert incumbent["decisions"] == 181 and incumbent["evaluable"] == 120
    frame.to_parquet(tmp_path / "weights.parquet")
    from_file = verdict_from_log(replace(log.write(tmp_path), weights=tmp_path / "weights.parquet"), EXPERIMENT)
    assert from_file == found
    nothing = verdict_from_log(replace(log.write(tmp_path), weights=frame.assign(weight=0.0)), EXPERIMENT)
    assert nothing["verdict"] == "inconclusive" and nothing["lift"] is None and nothing["lift_ci"] == [None, None]


def test_a_replay_compares_the_arms_at_one_budget(tmp_path: Path) -> None:
    """Worth 0.3 at a cost of 2 against 0.2 at a cost of 0.5: with 1 to spend, half of the first is 0.15."""
    log = Log()
    weights = []
    for user in range(200):
        arm, cost, clickers = ("incumbent", 2.0, 9) if user % 2 else ("challenger", 0.5, 6)
        for _ in range(2):
            decision = log.decide(f"u{user}", arm)
            log.learn(decision, "cost", cost)
            log.learn(decision, "click", float(user // 2 % 30 < clickers))
            weights.append((decision, 3.0))
    frame = pd.DataFrame(weights, columns=["decision_id", "weight"])
    free = verdict_from_log(replace(log.write(tmp_path), weights=frame), EXPERIMENT, "click")
    bound = verdict_from_log(replace(log.write(tmp_path), weights=frame), EXPERIMENT, "click", budget_per_decision=1.0)
    gain = {arm: found["gain_per_decision"] for arm, found in free["arms"].items()}
    assert gain["incumbent"] > gain["challenger"] and free["lift"] < 0
    assert bound["arms"]["incumbent"]["gain_per_decision"] == pytest.approx(gain["incumbent"] / 2)
    assert bound["arms"]["challenger"]["gain_per_decision"] == pytest.approx(gain["challenger"])
    assert bound["lift"] == pytest.approx(gain["challenger"] - gain["incumbent"] / 2) and bound["lift"] > 0
    assert bound["arms"]["incumbent"]["effective_decisions"] == pytest.approx(200)


def test_a_period_by_text(tmp_path: Path) -> None:
    import yaml

    log = traffic(120, 0.2, rounds=1)
    log.write(tmp_path)
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    since, until = log.decisions[10]["event_time"], log.decisions[50]["event_time"]
    found = verdict_of_period(str(tmp_path), str(path), Period(since, until), "click", "", 0.0)
    assert sum(arm["users"] for arm in found["arms"].values()) == 40
    assert found["verdict"] == "inconclusive" and found["series"] == []
    assert found["hours"] == pytest.approx(39 / 60)
    everything = verdict_of_period(str(tmp_path), str(path), Period(), "click", "", 0.0)
    assert sum(arm["users"] for arm in everything["arms"].values()) == 120


def test_no_decision_at_all(tmp_path: Path) -> None:
    log = traffic(120, 0.2)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(name="unheard of"))
    assert found["verdict"] == "inconclusive" and found["lift"] is None and found["srm_p"] == 1.0
    assert found["left_out"] == {"other_experiment": 360}


def test_srm_guardrail_minimum_time_and_kill_switch(tmp_path: Path) -> None:
    log = traffic(400, 0.6)
    files = log.write(tmp_path)
    assert verdict_from_log(files, EXPERIMENT.replace(enabled=False))["srm_p"] == 1.0
    waiting = verdict_from_log(files, EXPERIMENT.replace(min_runtime_hours=48))
    assert waiting["verdict"] == "inconclusive" and "hours" in waiting["reason"]
    for row in log.outcomes:
        if row["kind"] == "cost" and int(log.decisions[int(row["decision_id"][1:])]["user_id"][1:]) % 2:
            row["value"] = 1.0
    assert verdict_from_log(log.write(tmp_path), EXPERIMENT)["verdict"] == "guardrail"
    log.decisions = [row for row in log.decisions if row["arm"] == "incumbent" or int(row["user_id"][1:]) < 200]
    assert verdict_from_log(log.write(tmp_path), EXPERIMENT)["verdict"] == "srm"


def test_unknown_names_are_said(tmp_path: Path) -> None:
    files = traffic(4, 0.2).write(tmp_path)
    with pytest.raises(ValueError, match=r"gain 'clicks' is not one of click"):
        verdict_from_log(files, EXPERIMENT, "clicks")
    with pytest.raises(ValueError, match="no challenger 'third'"):
        verdict_from_log(files, EXPERIMENT, challenger="third")
    metrics = EXPERIMENT.metrics.replace(secondary=("happiness",))
    with pytest.raises(ValueError, match=r"'happiness' is not known; known: gain_per_decision, click_per_decision"):
        verdict_from_log(files, EXPERIMENT.replace(metrics=metrics))


def test_a_further_metric_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "slow_ratio", Metric("(latency_seconds > 0.05)::INT"))
    log = traffic(200, 0.2)
    for row in log.decisions:
        row["latency_seconds"] = 0.1 if row["arm"] == "challenger" else 0.01
    metrics = EXPERIMENT.metrics.replace(secondary=("slow_ratio",))
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))
    assert found["secondary"]["slow_ratio"]["lift"] == pytest.approx(1.0)

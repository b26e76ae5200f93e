import math
from pathlib import Path
from typing import Any

import pytest

from monitoring.decision_log import DecisionLog
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.stage_evidence import arms_in_shadow, faults_at_stage, stage_evidence
from monitoring.verdict.verdict import CLICK, verdict_of
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import GUARDRAIL
from mtorl.experiment.stage_machine import Evidence
from tests.experiments import experiment
from tests.features.collect.decision_logs import START, decision, write
from tests.features.collect.test_shadows import shadow
from tests.messages import assert_says

HOUR = 60.0
METRICS: dict[str, Any] = {"primary": "click_per_decision", "outcome_hours": None}


def at(stage: str, **changes: Any) -> Experiment:
    return Experiment.from_dict(experiment("http://arms", name="first", stage=stage, **{"metrics": METRICS, **changes}))


def decided(number: int, arm: str, minutes: float, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"experiment": "first", "salt": "s", "layer": "l", "stage": "5%", "arm": arm}
    own |= {"user_id": f"u{number}", "assignment_probability": 0.05, "fallback_reason": None, "latency_seconds": 0.01}
    return decision(f"d{number}-{minutes:g}", minutes, **{**own, **changes})


def since(minutes: float) -> float:
    return START.timestamp() + 60 * minutes


def evidence(log: DecisionLog, experiment: Experiment, minutes: float) -> Evidence:
    with experiment_users(log, experiment, CLICK) as read:
        return stage_evidence(read.db, log, experiment, since(minutes), verdict_of(read, log, experiment, CLICK))


def faults(log: DecisionLog, experiment: Experiment, minutes: float) -> dict[str, tuple[float, float]]:
    with experiment_users(log, experiment, CLICK) as read:
        return faults_at_stage(read.db, experiment.stage, since(minutes))


def test_an_arm_is_judged_by_its_decisions_since_the_stage_began(tmp_path: Path) -> None:
    decisions = [decided(n, "incumbent", n) for n in range(10)]
    decisions += [decided(n, "incumbent", n + 0.5) for n in range(10)]  # repeated users
    decisions += [
        decided(20 + n, "challenger", n, latency_seconds=0.05, fallback_reason="model_error" if n % 2 else None)
        for n in range(4)
    ]
    decisions += [
        decided(40, "challenger", 5.0, stage="1%"),
        decided(41, "challenger", 5.0, experiment="another"),
        decided(42, "challenger", 5.0, salt="before"),
        decided(43, "challenger", 5.0, withdrawn=True),
        decided(44, "challenger", 5.0, assignment_probability=1.0),  # not drawn at random
    ]
    log = DecisionLog.of(write(tmp_path / "log", decisions))
    assert faults(log, at("5%"), 0) == {"incumbent": (0.0, 0.01), "challenger": (0.5, 0.05)}
    assert faults(log, at("5%"), 2)["challenger"] == (0.5, 0.05)  # only its third and fourth decision
    assert faults(log, at("5%"), 3)["challenger"] == (1.0, 0.05)
    assert faults(log, at("25%"), 0) == {}


def test_the_ledgers_delay_after_a_change_of_stage_is_no_fault_of_an_arm(tmp_path: Path) -> None:
    found = [("ledger", 1), ("ledger", 58), ("ledger", 62), ("ledger", 70), (None, 80), (None, 130), ("ledger", 140)]
    decisions = [
        decided(number, "challenger", seconds / 60, fallback_reason=reason)
        for number, (reason, seconds) in enumerate(found)
    ]
    log = DecisionLog.of(write(tmp_path / "log", decisions))
    assert faults(log, at("5%"), 0)["challenger"][0] == pytest.approx(3 / 7)
    assert faults(log, at("5%"), 58 / 60)["challenger"][0] == pytest.approx(1 / 7)


@pytest.mark.parametrize(("reason", "ratio"), [("model_error", 1.0), (None, 0.0), ("ledger", 0.0)])
def test_a_stage_that_began_seconds_ago_has_evidence(reason: str | None, ratio: float, tmp_path: Path) -> None:
    """On a laptop a stage may last only seconds, so a fault must be visible within the first minute."""
    decisions = [decided(n, "challenger", (50 + n) / 60, fallback_reason=reason) for n in range(3)]
    log = DecisionLog.of(write(tmp_path / "log", decisions))
    found = evidence(log, at("5%"), 50 / 60).arms["challenger"]
    assert (found.fallback_ratio, found.latency_seconds) == (ratio, 0.01)


def test_overridden_users_are_no_evidence(tmp_path: Path) -> None:
    own: dict[str, Any] = {"fallback_reason": "model_error", "latency_seconds": 1.0}
    decisions = [decided(n, "incumbent", n) for n in range(4)]
    decisions += [decided(10, "challenger", 1), decided(11, "challenger", 9, **own)]
    decisions += [decided(11, "challenger", 2, override=True, assignment_probability=1.0, **own)]
    decisions += [decided(10, "challenger", 3, override=True, assignment_probability=1.0, **own)]
    log = DecisionLog.of(write(tmp_path / "log", decisions))
    assert faults(log, at("5%"), 0) == {"incumbent": (0.0, 0.01), "challenger": (0.0, 0.01)}
    shadow: dict[str, Any] = {"stage": "shadow", "assignment_probability": 1.0}
    decisions = [decided(1, "incumbent", 0, **shadow), decided(2, "challenger", 0, override=True, **shadow)]
    log = DecisionLog.of(write(tmp_path / "other", decisions))
    assert arms_in_shadow(log, at("shadow"), since(0)) == {"incumbent": (1, 0.0, 0.01)}


def served(hours: int, shares: dict[str, float], stage: str = "5%") -> list[dict[str, Any]]:
    own: dict[str, Any] = {"stage": stage, "shares": shares}
    arms = ["challenger" if shares["challenger"] and n % 20 == 0 else "incumbent" for n in range(20 * hours)]
    return [decided(n, arm, 3.0 * n, **own, assignment_probability=shares[arm]) for n, arm in enumerate(arms)]


AT_5 = {"incumbent": 0.95, "challenger": 0.05}


def test_users_of_the_evidence_are_those_of_the_verdict(tmp_path: Path) -> None:
    log = DecisionLog.of(write(tmp_path / "log", served(30, AT_5)))
    waiting = at("5%", metrics={**METRICS, "outcome_hours": 24})
    found = evidence(log, waiting, 0)
    assert found.arms["challenger"].users == 6
    # The incomplete first and last day don't count, and the other days show no breach.
    daily = at("5%", budgets=[{"campaign": "*", "channel": "*", "amount": 10, "period": "day"}])
    found = evidence(log, daily, 0)
    assert found.arms["challenger"].users == 12
    shadow = served(6, {"incumbent": 1.0, "challenger": 0.0}, stage="shadow")
    later = [
        decided(n, d["arm"], 360 + 3.0 * n, shares=AT_5, assignment_probability=AT_5[d["arm"]])
        for n, d in enumerate(served(26, AT_5))
    ]
    log = DecisionLog.of(write(tmp_path / "both", shadow + later))
    found = evidence(log, daily, 360)
    assert found.arms["challenger"].users == 0


def test_in_the_shadow_a_challenger_is_judged_by_its_shadow_requests(tmp_path: Path) -> None:
    decisions = [decided(n, "incumbent", n, stage="shadow", assignment_probability=1.0) for n in range(6)]
    shadows = [shadow(f"d{n}-{n}", fault="model_error" if n == 0 else None) for n in range(4)]
    log = DecisionLog.of(write(tmp_path / "log", decisions, shadows=[*shadows, shadows[1]]))
    arms = arms_in_shadow(log, at("shadow"), since(0))
    assert arms["incumbent"].users == 6
    assert (arms["challenger"].users, arms["challenger"].fallback_ratio) == (4, 0.25)
    assert math.isnan(arms["challenger"].latency_seconds)
    assert arms_in_shadow(log, at("shadow"), since(2))["challenger"].users == 2


def test_a_breached_guardrail_of_any_challenger_is_reported(tmp_path: Path) -> None:
    check = {"name": "cost_per_decision", "lower": 0.2, "margin": 0.05, "state": "breached"}
    verdict = {
        "verdict": "inconclusive",
        "reason": "zero",
        "code": "undecided",
        "values": {},
        "challenger": "b",
        "users": 900,
        "lift": 0.1,
        "lift_ci": [-0.1, 0.3],
        "challengers": {"a": {"guardrails": [check]}, "b": {"guardrails": [{**check, "state": "open"}]}},
    }
    with DecisionLog.of(tmp_path).opened() as db:
        # An arm with weight 0 has left the experiment.
        for weight in (0.25, 0.0):
            weights = {"incumbent": 0.5, "a": weight, "b": 0.5 - weight}
            arms = [{"name": arm, "weight": share, "endpoint": "http://x"} for arm, share in weights.items()]
            found = stage_evidence(db, DecisionLog.of(tmp_path), at("shadow", arms=arms), 0.0, verdict)
            assert len(found.breached) == (weight > 0) and found.reason.code == "undecided"
            for said in found.breached:
                assert_says(said, GUARDRAIL, metric="cost per decision", lower=0.2, margin=0.05)
            assert found.effect == {"users": 900, "lift": 0.1, "lift_ci": [-0.1, 0.3]}


def test_an_empty_log_has_no_arms(tmp_path: Path) -> None:
    assert arms_in_shadow(DecisionLog.of(tmp_path), at("shadow"), 0.0) == {}
    assert faults(DecisionLog.of(tmp_path), at("5%"), 0.0) == {}

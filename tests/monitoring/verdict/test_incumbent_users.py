from pathlib import Path
from typing import Any

import pytest

from monitoring.decision_log import DecisionLog
from monitoring.verdict.incumbent_users import incumbent_users
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain
from tests.experiments import experiment
from tests.features.collect.decision_logs import decision, outcome, write

DAY = 24 * 60.0


def of(**metrics: Any) -> Experiment:
    chosen = {"primary": "click_per_decision", "outcome_hours": None, **metrics}
    return Experiment.from_dict(experiment("http://arms", name="first", metrics=chosen))


def decided(name: str, user: str, minutes: float, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"experiment": "first", "arm": "incumbent", "user_id": user, "withdrawn": False}
    return decision(name, minutes, **{**own, **changes})


def test_users_are_summed_from_decisions_and_outcomes(tmp_path: Path) -> None:
    decisions = [
        decided("a", "u1", 0),
        decided("b", "u1", DAY),
        decided("b", "u1", DAY),  # delivered twice
        decided("c", "u2", 2 * DAY, arm="outside"),
        decided("d", "u3", DAY, arm="challenger"),
        decided("e", "u4", DAY, experiment="another"),
        decided("f", "u5", DAY, withdrawn=True),
        decided("g", "u6", DAY, override=True),
        decided("h", "u6", DAY + 1),
        decided("i", "u7", DAY + 2),
        decided("j", "u7", DAY + 3, override=True),
    ]
    outcomes = [outcome("1", "a", "click", 1.0), outcome("2", "b", "cost", 0.6), outcome("3", "d", "click", 1.0)]
    found = incumbent_users(DecisionLog.of(write(tmp_path / "log", decisions, outcomes)), of(), CLICK)
    assert sorted(map(tuple, found.population.figures_U2.tolist())) == [(0.0, 1.0), (0.0, 1.0), (1.0, 2.0)]
    assert found.population.counts
    assert (found.decisions, found.days) == (4, 2.0)
    assert found.cost_per_decision == pytest.approx(0.15)


def test_immature_outcomes_do_not_count(tmp_path: Path) -> None:
    decisions = [decided(f"d{day}", f"u{day}", day * DAY) for day in range(4)]
    outcomes = [outcome("1", "d0", "click", 1.0, minutes=DAY / 2), outcome("2", "d1", "click", 1.0, minutes=3 * DAY)]
    log = DecisionLog.of(write(tmp_path / "log", decisions, outcomes))
    found = incumbent_users(log, of(outcome_hours=24), CLICK)
    assert sorted(map(tuple, found.population.figures_U2.tolist())) == [(0.0, 1.0), (0.0, 1.0), (1.0, 1.0)]


def test_revenues_count_by_amount_not_by_number(tmp_path: Path) -> None:
    log = DecisionLog.of(write(tmp_path / "log", [decided("a", "u1", 0)]))
    found = incumbent_users(log, of(primary="gain_per_decision"), Gain.of_spec({"click": 0.1, "revenue": 1.0}))
    assert not found.population.counts


def test_an_empty_log_has_no_users(tmp_path: Path) -> None:
    found = incumbent_users(DecisionLog.of(tmp_path), of(), CLICK)
    assert (len(found.population.figures_U2), found.decisions, found.days) == (0, 0, 0.0)

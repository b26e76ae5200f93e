"""Tests of covariates, which describe users before the experiment assigned challengers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog
from monitoring.verdict.covariates import PREFIX
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.verdict import CLICK, verdict_from_log
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import UNBALANCED
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import Log

SHADOW = {"stage": "shadow", "assignment_probability": 1.0}
WITH_PAST = Experiment.from_dict({**CONTENT, "covariates": "past"})


def known(log: DecisionLog) -> pd.DataFrame:
    """Return each user's covariates; the index is the user's number of decisions, which identifies the user."""
    with experiment_users(log, WITH_PAST, CLICK) as found:
        names = ", ".join(f'any_value("{PREFIX}{name}") AS "{name}"' for name in found.covariates)
        of_users = "user_sum LEFT JOIN covariates USING (unit) GROUP BY unit"
        rows = found.db.execute(f"SELECT sum(decisions)::INT AS decisions, {names} FROM {of_users}").df()
    return rows.set_index("decisions").sort_index()


def visits(tmp_path: Path) -> DecisionLog:
    """Return a log of four users with one to four decisions; "new" has no earlier ones."""
    log = Log()
    log.decide("third", "incumbent", **SHADOW)
    for _ in range(2):
        log.learn(log.decide("fourth", "incumbent", **SHADOW), "click", 1.0)
    for experiment in ("test", "another"):
        decision = log.decide("old", "incumbent", experiment=experiment, **SHADOW)
        log.learn(decision, "click", 1.0)
    log.decide("old", "incumbent", withdrawn=True, **SHADOW)
    late = log.decide("old", "incumbent", **SHADOW)
    log.decide("old", "challenger")
    log.learn(late, "click", 1.0)  # after the experiment began
    for user, times in (("new", 2), ("third", 3), ("fourth", 4)):
        for _ in range(times):
            log.learn(log.decide(user, "incumbent"), "click", 1.0)
    return log.write(tmp_path)


def test_the_past_ends_at_the_first_decision_of_a_stage_with_challengers(tmp_path: Path) -> None:
    found = known(visits(tmp_path))
    assert found.columns.tolist() == ["past decisions", "past cost", "past click"]
    for name, counts in {"past decisions": [3, 1, 2], "past cost": [0, 0, 0], "past click": [2, 0, 2]}.items():
        expected = (np.array(counts) - np.mean(counts)) / (np.std(counts) or 1.0)
        assert found[name].to_numpy() == pytest.approx([expected[0], np.nan, *expected[1:]], nan_ok=True)


def test_the_past_of_a_bot_is_capped_at_ten_typical_users(tmp_path: Path) -> None:
    log = Log()
    users = (("a", 1), ("b", 2), ("c", 3), ("bot", 100))
    for user, times in users:
        for _ in range(times):
            log.learn(log.decide(user, "incumbent", **SHADOW), "click", 1.0)
    for user, times in users:
        for _ in range(times):
            log.decide(user, "challenger")
    found, counts = known(log.write(tmp_path)), np.array([1.0, 2.0, 3.0, 25.0])
    for name in ("past decisions", "past click"):
        assert found[name].to_numpy() == pytest.approx((counts - counts.mean()) / counts.std())


def trafficked(tmp_path: Path, unequal: float = 0.0) -> DecisionLog:
    """Return a log of 600 users with very different click rates, from before and during an experiment.

    `unequal` is the share by which the click rates of the challenger's users are lower from the start.
    """
    rng, log = np.random.default_rng(3), Log()
    rates = rng.beta(0.5, 1.5, 600) * (1.0 - unequal * (np.arange(600) % 2))
    for stage, lift in ((SHADOW, 0.0), ({}, 0.1)):
        for user, rate in enumerate(rates):
            arm = "challenger" if user % 2 and not stage else "incumbent"
            for _ in range(4):
                decision = log.decide(f"u{user}", arm, **stage)
                if rng.random() < rate + lift * (arm == "challenger"):
                    log.learn(decision, "click", 1.0)
    return log.write(tmp_path)


def test_a_verdict_names_the_covariates_of_its_lift(tmp_path: Path) -> None:
    log = trafficked(tmp_path)
    without = verdict_from_log(log, Experiment.from_dict(CONTENT))
    found = verdict_from_log(log, WITH_PAST)
    assert without["adjustment"] is None
    adjustment = found["adjustment"]
    assert adjustment["covariates"] == ["past decisions", "past cost", "past click"]
    assert adjustment["users_share"] == 1.0 and 0.2 < adjustment["variance_ratio"] < 0.8
    assert adjustment["unadjusted_lift"] == without["lift"] != found["lift"]
    assert adjustment["unadjusted_lift_ci"] == without["lift_ci"]
    assert found["effective_users"] == without["effective_users"]


def test_arms_that_differ_before_the_experiment_give_no_verdict(tmp_path: Path) -> None:
    found = verdict_from_log(trafficked(tmp_path, unequal=0.6), WITH_PAST)
    assert (found["verdict"], found["code"]) == ("inconclusive", UNBALANCED.code)
    assert found["values"] == {"covariate": "past click"}


def test_covariates_are_not_part_of_the_active_experiment() -> None:
    assert WITH_PAST.version == Experiment.from_dict(CONTENT).version

"""Covariates of an experiment's users: what each did before it met any arm, and a table of what else is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.known_users import PREFIX
from monitoring.verdict.verdict import CLICK, verdict_from_log
from mtorl.experiment.experiment import Experiment, ExperimentError
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import Log

SHADOW = {"stage": "shadow", "assignment_probability": 1.0}


def known(log: DecisionLog, covariates: dict[str, Any]) -> pd.DataFrame:
    """One row a user, by its number of decisions; users are told apart by it."""
    with experiment_users(log, _experiment(covariates), CLICK) as found:
        names = ", ".join(f'any_value("{PREFIX}{name}") AS "{name}"' for name in found.covariates)
        rows = found.db.execute(
            f"SELECT sum(decisions)::INT AS decisions, {names} FROM user_sum LEFT JOIN known USING (unit) GROUP BY unit"
        ).df()
    return rows.set_index("decisions").sort_index()


def _experiment(covariates: dict[str, Any]) -> Experiment:
    return Experiment.from_dict({**CONTENT, "covariates": covariates})


def visits(tmp_path: Path) -> DecisionLog:
    """One user with a past, who decides once in the experiment, and one without, who does twice."""
    log = Log()
    for experiment in ("test", "another"):
        decision = log.decide("old", "incumbent", experiment=experiment, **SHADOW)
        log.learn(decision, "click", 1.0)
    log.decide("old", "incumbent", withdrawn=True, **SHADOW)
    late = log.decide("old", "incumbent", **SHADOW)
    log.decide("old", "challenger")
    log.learn(late, "click", 1.0)  # when it had met its arm
    for _ in range(2):
        log.learn(log.decide("new", "incumbent"), "click", 1.0)
    return log.write(tmp_path)


def test_the_past_is_what_was_known_before_the_first_decision_at_a_stage_with_challengers(tmp_path: Path) -> None:
    found = known(visits(tmp_path), {"past": True})
    assert found.columns.tolist() == ["past decisions", "past cost", "past click"]
    assert found.loc[1].tolist() == [3.0, 0.0, 2.0]
    assert found.loc[2].isna().all()


def test_the_past_of_a_bot_is_that_of_ten_typical_users(tmp_path: Path) -> None:
    log = Log()
    for user, times in (("a", 1), ("b", 2), ("c", 3), ("bot", 100)):
        for _ in range(times):
            log.learn(log.decide(user, "incumbent", **SHADOW), "click", 1.0)
        for _ in range(times):
            log.decide(user, "challenger")
    found = known(log.write(tmp_path), {"past": True})
    assert found["past decisions"].tolist() == [1.0, 2.0, 3.0, 25.0] == found["past click"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_tells_more(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"user_id": ["old", "nobody"], "forecast": [0.5, 1.0], "bought": [True, False], "name": "x"})
    file = tmp_path / f"users{suffix}"
    table.to_csv(file, index=False) if suffix == ".csv" else table.to_parquet(file)
    spec = {"past": False, "table": str(file), "columns": ["forecast", "bought"]}
    found = known(visits(tmp_path), spec)
    assert found.loc[1].tolist() == [0.5, 1.0] and found.loc[2].isna().all()
    both = known(visits(tmp_path), {**spec, "past": True})
    assert both.columns.tolist()[-2:] == ["forecast", "bought"] and both.loc[1].tolist()[0] == 3.0


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (None, [], ""),
        ("nothing of the kind", [], ""),
        ({"user": ["a"], "x": [1.0]}, [], "user_id"),
        ({"user_id": ["a"], "x": [1.0]}, ["y"], "'y'"),
        ({"user_id": ["a"], "x": ["high"]}, [], "'x'.*VARCHAR"),
        ({"user_id": ["a"]}, [], "1 to 20"),
        ({"user_id": ["a", "b", "b"], "x": [1.0, 2.0, 3.0]}, [], "1 users.*'b'"),
        ({"user_id": ["a", None], "x": [1.0, 2.0]}, [], "1 rows without"),
        ({"user_id": ["a", "b"], "x": [1.0, np.inf]}, [], "1 rows.*'x'.*'b'"),
        ({"user_id": ["a", "b"], "x": [np.nan, -1.7e308]}, [], r"1 rows.*'x'.*1e\+100"),
        ({"user_id": ["a"], "Past Click": [1.0]}, [], "'past click'"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(
    tmp_path: Path, rows: dict[str, Any] | str | None, columns: list[str], said: str
) -> None:
    file = tmp_path / "users.parquet"
    if isinstance(rows, str):
        file.write_text(rows)
    elif rows is not None:
        pd.DataFrame(rows).to_parquet(file)
    with pytest.raises(ExperimentError, match=f"users.parquet: [^\n]*{said}[^\n]*$"):
        known(visits(tmp_path), {"table": str(file), "columns": columns})


@pytest.mark.parametrize(
    ("covariates", "said"),
    [
        ({"past": False}, "covariates: without past or a table nothing is known"),
        ({"columns": ["x"]}, "covariates: columns are those of a table"),
        ({"table": "users.xlsx"}, "covariates.table: 'users.xlsx' is neither .parquet nor .csv"),
        ({"table": "users.csv", "columns": ["user_id"]}, "covariates.columns: expected different columns other than"),
    ],
)
def test_an_experiment_file_says_what_is_wrong(covariates: dict[str, Any], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        _experiment(covariates)


def trafficked(tmp_path: Path, leaking: bool = False) -> tuple[DecisionLog, Path]:
    """600 users with a past, whose click rates differ much, and a table that may know which arm they got."""
    rng, log = np.random.default_rng(3), Log()
    rates = rng.beta(0.5, 1.5, 600)
    for stage, lift in ((SHADOW, 0.0), ({}, 0.1)):
        for user, rate in enumerate(rates):
            arm = "challenger" if user % 2 and not stage else "incumbent"
            for _ in range(4):
                decision = log.decide(f"u{user}", arm, **stage)
                if rng.random() < rate + lift * (arm == "challenger"):
                    log.learn(decision, "click", 1.0)
    table = pd.DataFrame({"user_id": [f"u{user}" for user in range(600)], "forecast": rng.normal(size=600)})
    if leaking:
        table["forecast"] += np.arange(600) % 2
    table.to_parquet(tmp_path / "users.parquet")
    return log.write(tmp_path), tmp_path / "users.parquet"


def test_a_verdict_says_what_its_lift_was_adjusted_by(tmp_path: Path) -> None:
    log, _ = trafficked(tmp_path)
    without = verdict_from_log(log, Experiment.from_dict(CONTENT))
    found = verdict_from_log(log, _experiment({"past": True}))
    assert without["adjustment"] is None
    adjustment = found["adjustment"]
    assert adjustment["covariates"] == ["past decisions", "past cost", "past click"]
    assert adjustment["users_share"] == 1.0 and 0.2 < adjustment["variance_ratio"] < 0.8
    assert adjustment["unadjusted_lift"] == without["lift"] != found["lift"]
    assert adjustment["unadjusted_lift_ci"] == without["lift_ci"]
    last = {"users": 600, "lift": found["lift"], "lo": found["lift_ci"][0], "hi": found["lift_ci"][1]}
    assert found["series"][-1] == pytest.approx(last)
    assert found["effective_users"] == without["effective_users"]


def test_a_covariate_that_knows_the_arm_is_found(tmp_path: Path) -> None:
    log, table = trafficked(tmp_path, leaking=True)
    found = verdict_from_log(log, _experiment({"past": True, "table": str(table)}))
    assert found["verdict"] == "inconclusive" and "in the covariate 'forecast' by more than chance" in found["reason"]


def test_covariates_are_no_part_of_what_is_in_force() -> None:
    assert _experiment({"past": True}).version == Experiment.from_dict(CONTENT).version


def test_what_came_of_the_experiment_rules_no_effect_and_no_harm_out(tmp_path: Path) -> None:
    """A table that is written anew each night: its sums hold the effect, and would explain it away."""
    rng, log = np.random.default_rng(0), Log()
    clicks, costs = np.zeros(1_200), np.zeros(1_200)
    for user in range(1_200):
        better = user % 2
        for _ in range(4):
            decision = log.decide(f"u{user}", "challenger" if better else "incumbent")
            click, cost = float(rng.random() < 0.30 + 0.04 * better), 0.1 * rng.exponential(1.0 + 0.1 * better)
            log.learn(decision, "click", click)
            log.learn(decision, "cost", cost)
            clicks[user] += click
            costs[user] += cost
    table = pd.DataFrame({"user_id": [f"u{user}" for user in range(1_200)], "clicks": clicks, "costs": costs})
    table.to_parquet(tmp_path / "users.parquet")
    file = {**CONTENT, "minimum_effect": 0.1, "covariates": {"past": False, "table": str(tmp_path / "users.parquet")}}
    margin = [{"name": "cost_per_decision", "direction": "down", "margin": 0.005}]
    file["metrics"] = {**CONTENT["metrics"], "guardrails": margin}
    found = verdict_from_log(log.write(tmp_path), Experiment.from_dict(file))
    assert found["adjustment"]["unadjusted_lift"] > 0.03 and abs(found["lift"]) < 0.01
    assert (found["verdict"], found["futile"]) == ("inconclusive", False)
    assert [guardrail["state"] for guardrail in found["guardrails"]] == ["open"]

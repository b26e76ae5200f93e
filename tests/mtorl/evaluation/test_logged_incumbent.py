"""Tests of the value of an incumbent without an artifact, estimated from its decisions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtorl.artifact import artifact
from mtorl.evaluation import messages
from mtorl.evaluation.gate import gate
from mtorl.evaluation.logged_incumbent import LoggedIncumbent
from mtorl.evaluation.offline import evaluate_offline
from mtorl.experiment.arm import INCUMBENT, OUTSIDE
from mtorl.fitting.fit import fit_incumbent
from mtorl.log.columns import WindowError
from mtorl.log.opportunities import ENOUGH, OPPORTUNITIES_FILE
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.window.window import WindowBatch, instance_from_history
from tests.messages import raises
from tests.mtorl.window.windows_folder import LOG, SPEC, STEPS, write_windows_folder

C = len(SPEC.channels)
AGES = sorted(LOG["age_group"].dropna().unique())[:2]
COST = np.linspace(0.1, 0.4, C)
# Probability of a click, by age group and channel.
CLICK = np.stack([np.linspace(0.3, 0.1, C), np.linspace(0.1, 0.35, C)])
# Probability that the drawn channel is exposed.
EXPOSE = np.stack([np.linspace(1.0, 0.4, C), np.linspace(0.5, 0.9, C)])
RULES = "our-rules 2"


def rule(best: int) -> np.ndarray:
    probs = np.full((2, C), 0.3 / C)
    probs[[0, 1], [best, C - 1 - best]] += 0.7
    return probs


DRAW = rule(1)


def window(age: int) -> dict[str, Any]:
    row = LOG.iloc[0]
    context = {column.name: row[column.name] for column in SPEC.context}
    static = {**{column.name: row[column.name] for column in SPEC.static}, "age_group": AGES[age]}
    return instance_from_history({}, json.loads(pd.Series(context).to_json()), static, SPEC, 1.7e15)


def decisions(
    users: int, seed: int, arm: str = INCUMBENT, policy: str = RULES, draw: np.ndarray = DRAW
) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    age = np.repeat(random.integers(2, size=users), rounds := random.integers(1, 9, size=users))
    taste = np.repeat(random.uniform(0.4, 1.6, size=users), rounds)
    user = np.repeat([f"{arm}{policy}{i}" for i in range(users)], rounds)
    channel = (random.random(len(age))[:, None] > draw[age].cumsum(axis=1)).sum(axis=1)
    exposed = random.random(len(age)) < EXPOSE[age, channel]
    features = [json.dumps(window(of)) for of in range(2)]
    outcomes = dict.fromkeys(SPEC.window_outcomes, 0.0)
    return pd.DataFrame(
        {
            "decision_id": [f"{arm}-{policy}-{number}" for number in range(len(user))],
            "user_id": user,
            "timestamp": pd.to_datetime(np.arange(len(user)), unit="s", utc=True),
            "arm": arm,
            "generation": policy,
            "channel": np.array(SPEC.channels)[channel],
            "channel_probs": list(draw[age]),
            "exposure_probs": list(EXPOSE[age]),
            "exposed": exposed,
            "split": "test",
            "features": np.array(features)[age],
            **outcomes,
            "cost": exposed * COST[channel],
            "click": exposed * (random.random(len(age)) < CLICK[age, channel] * taste),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("offline")
    write_windows_folder(folder / "windows", STEPS)
    fit_incumbent(str(folder / "windows"), str(folder / "challenger"))
    return folder / "windows", folder / "challenger"


def evaluated(made: tuple[Path, Path], folder: Path, *logs: pd.DataFrame) -> dict[str, Any]:
    windows, challenger = made
    pd.concat(logs).to_parquet(windows / OPPORTUNITIES_FILE)
    LoggedIncumbent(RULES).write(str(windows), str(folder))
    return evaluate_offline(str(windows), str(challenger), str(folder), 0.6, 7)


def true_values(challenger: Path, price: float) -> dict[str, float]:
    """Return the clicks per decision of the rule and of the challenger, and their difference.

    If the challenger spends more than the rule, its clicks are scaled down to the rule's spend.
    """
    model = artifact.load(challenger)
    logits, reward, cost = model.predict(WindowBatch.from_instances([window(0), window(1)], SPEC))
    forecast = Forecast(logits, model.encoder.unreward(reward, cost), cost)
    probs, expose = action_probabilities(forecast, replace(model.policy, price=price))
    exposing = {"challenger": probs * expose, "incumbent": DRAW * EXPOSE}
    spend = {name: float((of * COST).sum(axis=1).mean()) for name, of in exposing.items()}
    gain = {name: float((of * CLICK).sum(axis=1).mean()) for name, of in exposing.items()}
    value = {name: gain[name] * min(1.0, spend["incumbent"] / spend[name]) for name in gain}
    return {**value, "difference": value["challenger"] - value["incumbent"]}


@pytest.mark.long
def test_intervals_cover_the_truth_at_the_incumbents_spend(made: tuple[Path, Path], tmp_path: Path) -> None:
    covered: dict[str, list[bool]] = {"challenger": [], "incumbent": [], "difference": []}
    for seed in range(30):
        log = decisions(400, seed)
        others = decisions(300, seed + 1000, "challenger", "f00", rule(3)).assign(click=1.0)
        before = decisions(300, seed + 2000, policy="our-rules 1", draw=rule(0)).assign(click=1.0)
        found = evaluated(made, tmp_path / f"{seed}", log, others, before)
        value = json.loads(json.dumps(found["value"], allow_nan=False))
        assert found["valued_on"] == "incumbent_decisions" and found["incumbent"] is None
        assert found["incumbent_is"] == "external"
        assert value["rows"] == len(log), "only decisions of the current incumbent count"
        assert value["incumbent"] == pytest.approx(log["click"].mean(), rel=0.05)  # the forecast removes some noise
        assert value["budget_per_opportunity"] == pytest.approx(log["cost"].mean(), rel=0.05)
        assert value["mean_weight"]["incumbent"] == pytest.approx(1.0, abs=0.1)
        assert gate(value)[0] in ("promote", "reject")
        for name, true in true_values(made[1], found["prices"]["challenger"]).items():
            low, high = value[f"{name}_ci"]
            covered[name].append(low <= true <= high)
    for name, of in covered.items():
        assert sum(of) >= 26, name


def test_decisions_outside_the_experiment_count_for_the_incumbent(made: tuple[Path, Path], tmp_path: Path) -> None:
    logs = decisions(150, 1), decisions(150, 2, OUTSIDE)
    assert evaluated(made, tmp_path / "incumbent", *logs)["value"]["rows"] == sum(map(len, logs))


def test_a_deterministic_rule_cannot_be_valued_and_is_rejected(made: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluated(made, tmp_path / "incumbent", decisions(400, 1, draw=np.eye(C)[[0, 1]]))
    decision, reason = gate(found["value"])
    assert (decision, reason.code) == ("reject", messages.IMPOSSIBLE.code)


def test_too_few_decisions_are_an_error_with_advice(made: tuple[Path, Path], tmp_path: Path) -> None:
    (made[0] / OPPORTUNITIES_FILE).unlink(missing_ok=True)
    with raises(WindowError, messages.INCUMBENT_DECISIONS, count=0):
        LoggedIncumbent(RULES).write(str(made[0]), str(tmp_path / "incumbent"))
    few = decisions(400, 1).head(ENOUGH - 1)
    with raises(WindowError, messages.INCUMBENT_DECISIONS, policy=RULES, count=499):
        evaluated(made, tmp_path / "incumbent", few, decisions(400, 2, "challenger", "f00"))
    assert not (tmp_path / "incumbent").exists()


def test_an_incumbent_without_exposures_is_an_error(made: tuple[Path, Path], tmp_path: Path) -> None:
    silent = decisions(400, 1).assign(exposed=False, click=0.0, cost=0.0)
    with raises(WindowError, messages.EXPOSED_NOTHING):
        evaluated(made, tmp_path / "incumbent", silent)

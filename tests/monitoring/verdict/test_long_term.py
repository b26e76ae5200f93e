"""What a promotion brings in the long run, against those who keep the previous incumbent."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog
from monitoring.experiments.look import look
from monitoring.verdict.long_term import long_term_effect
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.sample_ratio import SRM_ALARM
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import Log

AT = "2025-03-01T00:00:00+00:00"
BEFORE = {"name": "holdout", "weight": 0.0, "policy": "baseline"}
PROMOTED = Experiment.from_dict(
    {**CONTENT, "enabled": False, "holdout": 0.2, "promotion": {"at": AT, "before": BEFORE}}
)
OFF: dict[str, Any] = {"stage": "off", "assignment_probability": 1.0, "shares": '{"incumbent": 1.0, "challenger": 0.0}'}


def since_the_promotion(promoted: float, kept: float, users: int = 1500, holdout: int = 5, seed: int = 0) -> Log:
    """One of so many users is held out; how often they click."""
    rng = np.random.default_rng(seed)
    log = Log()
    for _ in range(3):
        for user in range(users):
            arm = "holdout" if user % holdout == 0 else "incumbent"
            own = {**OFF, "salt": PROMOTED.salt, "model_digest": "old" if arm == "holdout" else "new"}
            decision = log.decide(f"u{user}", arm, **own)
            log.learn(decision, "cost", 0.2)
            if rng.random() < (kept if arm == "holdout" else promoted):
                log.learn(decision, "click", 1.0)
    return log


def found(log: DecisionLog, experiment: Experiment = PROMOTED) -> Any:
    return long_term_effect(log, experiment, CLICK)


@pytest.mark.parametrize(("promoted", "kept", "tone"), [(0.4, 0.2, "good"), (0.2, 0.4, "alarm"), (0.3, 0.3, "open")])
def test_the_effect_is_that_of_what_was_promoted(tmp_path: Path, promoted: float, kept: float, tone: str) -> None:
    log = since_the_promotion(promoted, kept)
    effect = found(log.write(tmp_path))
    assert (effect["tone"], effect["since"], effect["holdout"]) == (tone, AT, 0.2)
    assert effect["users"] == {"incumbent": 1200, "holdout": 300}
    assert effect["decisions"] == {"incumbent": 3600, "holdout": 900}
    clicks = {arm: 0 for arm in effect["users"]}
    whose = {row["decision_id"]: row["arm"] for row in log.decisions}
    for row in log.outcomes:
        clicks[whose[row["decision_id"]]] += row["kind"] == "click"
    difference = clicks["incumbent"] / 3600 - clicks["holdout"] / 900
    assert effect["effect"] == pytest.approx(difference)
    assert effect["relative_effect"] == pytest.approx(difference / (clicks["holdout"] / 900))
    low, high = effect["effect_ci"]
    assert low < effect["effect"] < high
    assert effect["confidence"] == 0.95 and effect["srm_p"] > SRM_ALARM and effect["left_out"] == {}


def test_only_what_was_decided_since_counts_and_only_in_the_experiments_part(tmp_path: Path) -> None:
    clean = since_the_promotion(0.4, 0.2)
    expected = found(clean.write(tmp_path))
    log = since_the_promotion(0.4, 0.2)
    early = (pd.Timestamp(AT) - pd.Timedelta(hours=1)).isoformat()
    for place in range(600):
        user = f"u{place}"
        arm = "holdout" if place % 5 == 0 else "challenger"
        own = {"salt": PROMOTED.salt, "event_time": early, "model_digest": "new"}
        prob = {"assignment_probability": 1.0} if arm == "holdout" else {}
        log.learn(log.decide(user, arm, **own, **prob), "click", 1.0)  # of the ramp
        log.learn(log.decide(user, "incumbent", **{**OFF, **own}), "click", 1.0)  # the kill switch was on
        outside = {**OFF, "salt": PROMOTED.salt, "model_digest": "new", "event_time": AT}
        log.learn(log.decide(f"v{place}", "outside", **outside), "click", 1.0)
        log.learn(log.decide(f"w{place}", "holdout", **{**outside, "salt": "another"}), "click", 1.0)
    with_others = found(log.write(tmp_path))
    assert with_others["left_out"] == {"outside": 600, "other_experiment": 600}
    assert {**with_others, "left_out": {}} == expected


def test_a_split_that_is_not_as_configured_is_said(tmp_path: Path) -> None:
    effect = found(since_the_promotion(0.4, 0.2, holdout=10).write(tmp_path))
    assert effect["tone"] == "alarm" and effect["srm_p"] < SRM_ALARM


def test_too_little_is_said(tmp_path: Path) -> None:
    effect = found(since_the_promotion(0.4, 0.2, users=100).write(tmp_path))
    assert (effect["tone"], effect["effect_ci"]) == ("open", None)
    assert f"held out: {effect['users']['holdout']}" in effect["words"]
    log = Log()
    log.decide("u", "incumbent", event_time="2025-01-01T00:00:00Z")
    nothing = found(log.write(tmp_path))  # of an earlier version, besides
    assert (nothing["effect"], nothing["users"]["holdout"]) == (None, 0)


def test_there_is_none_before_a_promotion_or_without_a_holdout(tmp_path: Path) -> None:
    log = since_the_promotion(0.4, 0.2).write(tmp_path)
    assert found(log, Experiment.from_dict({**CONTENT, "holdout": 0.2})) is None
    assert found(log, Experiment.from_dict({**CONTENT, "enabled": False})) is None


def test_a_look_at_what_was_promoted_says_both(tmp_path: Path) -> None:
    log = since_the_promotion(0.4, 0.2)
    early = (pd.Timestamp(AT) - pd.Timedelta(days=1)).isoformat()
    for user in range(400):
        arm = "challenger" if user % 2 else "incumbent"
        own = {"salt": PROMOTED.salt, "event_time": early, "model_digest": "new" if user % 2 else "old"}
        log.learn(log.decide(f"r{user}", arm, **own), "click", float(user % 3 == 0))
    known = look(log.write(tmp_path), PROMOTED, CLICK, pd.Timestamp(AT).timestamp(), pd.Timestamp(AT).timestamp())
    assert known is not None and known.long_term is not None and known.long_term["tone"] == "good"
    assert known.verdict is not None and known.verdict["arms"]["challenger"]["users"] == 200
    assert known.verdict["left_out"] == {"holdout": 900, "not_randomised": 3600}

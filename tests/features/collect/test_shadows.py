"""Tests of reading one arm's decisions, and shadow decisions joined to the incumbent's."""

import json
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features import messages
from features.collect.experiment_decisions import served_decisions, shadows
from mtorl.experiment.experiment import Experiment
from mtorl.log.touchpoints import LogError
from tests.experiments import experiment
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.features.collect.small_model import WINDOW
from tests.messages import raises
from tests.repository import ROOT

MINE = {"experiment": "first", "salt": "s"}
AT_ONCE = {"primary": "click_per_decision", "outcome_hours": None}
OURS = Experiment.from_dict(experiment("http://arms", name="first", salt="s", metrics=AT_ONCE))
SURE = {
    "channel": "search",
    "drawn_channel": "search",
    "exploration": None,
    "propensity": 1.0,
    "channel_probs": dict.fromkeys(SPEC.channels, 0.0) | {"search": 1.0},
    "exposure_probs": dict.fromkeys(SPEC.channels, 1.0),
    "context": {"hour": 1.0, "device": "phone", "placement": None},
}


def shadow(of: str, arm: str = "challenger", **changes: Any) -> dict[str, Any]:
    record = json.loads((ROOT / "tests" / "serving" / "golden" / "shadow.json").read_text())
    return {**record, "shadow_id": f"{of}.{arm}", "decision_id": of, "experiment": "first", "arm": arm, **changes}


def test_a_shadow_is_joined_to_its_decision_and_outcomes(tmp_path: Path) -> None:
    theirs = {
        "channel": "video",
        "expose": False,
        "exploration": None,
        "channel_probs": {"search": 0.25, "video": 0.75},
        "exposure_probs": {"search": 1.0, "video": 0.0},
        "expected_rewards": {"search": 0.1},
    }
    log = write(
        tmp_path / "log",
        [decision("d", **MINE, **SURE), decision("other", 1, **{**MINE, "salt": "old"}, **SURE)],
        [outcome("c", "d", "cost", 0.3), outcome("k", "d", "click", 1.0)],
        [shadow("d", **theirs), shadow("d", **theirs), shadow("other", **theirs)],  # delivery is at least once
    )
    (row,) = shadows(log, SPEC, OURS, ["device", "age_group"]).to_dict("records")
    assert (row["incumbent_channel"], row["incumbent_expose"], row["decided"]) == ("search", True, True)
    assert (row["challenger_channel"], row["challenger_expose"], row["left_out"]) == ("video", False, None)
    assert (row["gain"], row["cost"], row["exposed"]) == (1.0, 0.3, True)
    assert list(row["channel_probs"]) == [1.0, 0.0, 0.0, 0.0]
    assert row["challenger_channel_probs"].tolist() == pytest.approx([0.25, nan, nan, 0.75], nan_ok=True)
    assert row["challenger_expected_rewards"].tolist() == pytest.approx([0.1, nan, nan, nan], nan_ok=True)
    assert row["device"] == "phone"


UNSAID = {"channel": None, "expose": None, "channel_probs": {}, "exposure_probs": {}, "expected_rewards": {}}
EXPLORED = {"share": 0.1, "scope": "both", "explored": True, "channel": "video", "expose": False}
GONE = {"expose": False, "budget_exhausted": True, "reservation_id": None}


@pytest.mark.parametrize(
    ("changes", "of_shadow", "expected"),
    [
        # Compare the channel that the policy preferred, not the one that exploration drew.
        (
            {"exploration": {**EXPLORED, "channel_probs": {}, "exposure_probs": {}}},
            {},
            {"incumbent_channel": "video", "incumbent_expose": False},
        ),
        # A refusal for lack of budget isn't a choice of the policy.
        (GONE, {}, {"incumbent_expose": True, "left_out": "budget_gone"}),
        ({}, {"fault": "model_timeout", **UNSAID}, {"fault": "model_timeout", "incumbent_expose": True}),
    ],
    ids=["exploration", "budget", "fault"],
)
def test_each_policys_own_choice_is_compared(
    tmp_path: Path, changes: dict[str, Any], of_shadow: dict[str, Any], expected: dict[str, Any]
) -> None:
    log = write(tmp_path / "log", [decision("d", **MINE, **SURE | changes)], [], [shadow("d", **of_shadow)])
    (row,) = shadows(log, SPEC, OURS).to_dict("records")
    assert {name: row[name] for name in expected} == expected


def test_a_decision_that_was_withdrawn_has_no_shadow(tmp_path: Path) -> None:
    withdrawn = decision("d", **MINE, **SURE | {"withdrawn": True, "expose": False, "fallback_reason": "log"})
    decisions = [decision("d", **MINE, **SURE), withdrawn, decision("e", **MINE, **SURE)]
    log = write(tmp_path / "log", decisions, [], [shadow("d"), shadow("e")])
    assert len(shadows(log, SPEC, OURS)) == 1


def test_a_log_without_shadows_of_the_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError):
        shadows(write(tmp_path / "log", [decision("d")]), SPEC, OURS)
    with pytest.raises(LogError):
        shadows(write(tmp_path / "other", [decision("d", **SURE)], [], [shadow("d")]), SPEC, OURS)


def test_a_decision_is_valued_once_it_is_mature(tmp_path: Path) -> None:
    late = OURS.replace(metrics=OURS.metrics.replace(outcome_hours=24.0))
    decisions = [decision("d", **MINE, **SURE), decision("e", 60 * 30, **MINE, **SURE)]
    log = write(tmp_path / "log", decisions, [outcome("c", "d")], [shadow("d"), shadow("e")])
    rows = shadows(log, SPEC, late)
    assert rows["left_out"].tolist() == [None, "not_mature"]
    assert shadows(log, SPEC, OURS)["left_out"].tolist() == [None, None]


def test_above_the_bound_a_sample_of_whole_users_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions = [decision(f"d{n}", n, **MINE, **SURE, user_id=f"u{n % 12}") for n in range(60)]
    log = write(tmp_path / "log", decisions, [], [shadow(f"d{n}") for n in range(60)])
    everything = shadows(log, SPEC, OURS)
    assert len(everything) == 60 and (everything["users_share"] == 1.0).all()
    for most in (1, 22, 59):
        monkeypatch.setattr("features.collect.experiment_decisions.MOST_SHADOWS", most)
        some = shadows(log, SPEC, OURS)
        assert most <= len(some) < most + 5 and set(some["user_id"].value_counts()) == {5}
        assert some["users_share"].tolist() == [some["user_id"].nunique() / 12] * len(some)
        whole = everything[everything["user_id"].isin(some["user_id"])].drop(columns="users_share")
        pd.testing.assert_frame_equal(some.drop(columns="users_share"), whole.reset_index(drop=True))


SERVED = Experiment.from_dict(experiment("http://arms", name="first", salt="s"))


def ours(name: str, minutes: float, **changes: Any) -> dict[str, Any]:
    own = {**MINE, **SURE, "arm": "incumbent", "window": WINDOW, "expose": True, "fallback_reason": None}
    return decision(name, minutes, **{**own, **changes})


def test_an_arms_decisions_come_with_their_probabilities_and_windows(tmp_path: Path) -> None:
    decisions = [
        ours("d0", 0),
        ours("d1", 1, expose=False, withdrawn=True),
        ours("d2", 2, channel_probs={}),  # without probabilities
        ours("d3", 3, arm="challenger"),
        ours("d4", 4, salt="old"),
        ours("d5", 5, expose=False),
        ours("d6", 2 * 24 * 60),  # not mature
    ]
    log = write(tmp_path / "log", decisions, [outcome("c", "d0"), outcome("k", "d0", "click", 1.0)])
    rows = served_decisions(log, SPEC, SERVED, "incumbent").set_index("timestamp").sort_index()
    assert rows["gain"].tolist() == [1.0, 0.0] and rows["exposed"].tolist() == [True, False]
    assert rows["channel_probs"].iloc[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert json.loads(rows["window"].iloc[0])["context"]["device"] == ["phone"]


def test_decisions_without_probabilities_are_refused_for_a_plan(tmp_path: Path) -> None:
    log = write(tmp_path / "log", [ours("d", 0, channel_probs={}, exposure_probs={})], [outcome("c", "d")])
    with raises(LogError, messages.NO_PROBABILITIES, arm="incumbent"):
        served_decisions(log, SPEC, SERVED, "incumbent")
    with raises(LogError, messages.UNKNOWN_ARM, known=["incumbent", "challenger"]):
        served_decisions(log, SPEC, SERVED, "nobody")
    (log / "replay.parquet").touch()
    with raises(LogError, messages.REPLAYED, lake=log):
        served_decisions(log, SPEC, SERVED, "incumbent")

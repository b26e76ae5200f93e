"""Tests of the value of a challenger in shadow, estimated from the incumbent's decisions."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.evaluation import messages
from mtorl.evaluation.shadow import in_words, shadow_report
from tests.messages import assert_says

CHANNELS = ("search", "video")
GAIN = np.array([[0.2, 0.5], [0.6, 0.1]])  # by kind of user and channel
COST = np.array([0.3, 0.3])
INCUMBENT = np.array([0, 0])
CHALLENGER = np.array([1, 0])


def world(rows: int, explored: float, seed: int = 0, skipped: float = 0.0, **changes: Any) -> pd.DataFrame:
    """Return decisions of a deterministic incumbent with a challenger in shadow.

    A share `explored` of the decisions is random. The other decisions show no ad to a share `skipped` of the users.
    """
    random = np.random.default_rng(seed)
    user_B = random.integers(rows // 2, size=rows)
    kind_B, shows_B = user_B % 2, user_B // 2 % 10 >= 10 * skipped
    by_chance_B = random.random(rows) < explored
    drawn_B = np.where(by_chance_B, random.integers(2, size=rows), INCUMBENT[kind_B])
    exposed_B = shows_B | by_chance_B
    probs_BC = np.full((rows, 2), explored / 2) + (1 - explored) * np.eye(2)[INCUMBENT[kind_B]]
    own_BC = np.eye(2)[INCUMBENT[kind_B]] * (1 - explored) * shows_B[:, None]
    expose_BC = np.divide(own_BC + explored / 2, probs_BC, out=np.zeros((rows, 2)), where=probs_BC > 0)
    theirs_BC = np.eye(2)[CHALLENGER[kind_B]]
    gain_B = exposed_B * (random.random(rows) < GAIN[kind_B, drawn_B])
    columns: dict[str, Any] = {
        "arm": "challenger",
        "model": "m1",
        "fault": None,
        "user_id": [f"u{user}" for user in user_B],
        "decided": True,
        "incumbent_channel": np.array(CHANNELS)[INCUMBENT[kind_B]],
        "incumbent_expose": shows_B,
        "challenger_channel": np.array(CHANNELS)[CHALLENGER[kind_B]],
        "challenger_expose": True,
        "left_out": None,
        "drawn_channel": np.array(CHANNELS)[drawn_B],
        "channel_probs": probs_BC.tolist(),
        "exposure_probs": expose_BC.tolist(),
        "exposed": exposed_B,
        "gain": gain_B * 1.0,
        "cost": exposed_B * COST[drawn_B],
        "challenger_channel_probs": theirs_BC.tolist(),
        "challenger_exposure_probs": np.ones((rows, 2)).tolist(),
        "challenger_expected_rewards": (GAIN[kind_B] * 1.2).tolist(),  # the forecasts are wrong on purpose
        "challenger_expected_costs": np.tile(COST, (rows, 1)).tolist(),
        "kind": np.array(["a", "b"])[kind_B],
        "users_share": 1.0,
    }
    return pd.DataFrame({**columns, **changes})


def report(rows: pd.DataFrame, **arguments: Any) -> Any:
    return shadow_report(rows, CHANNELS, resamples=200, **arguments)["challenger"]


@pytest.mark.parametrize("forecasts", [True, False])
def test_a_challenger_is_valued_at_the_incumbents_spend(forecasts: bool) -> None:
    nothing = {f"challenger_{name}": [[np.nan] * 2] * 6000 for name in ("expected_rewards", "expected_costs")}
    found = report(world(6000, explored=0.2, skipped=0.3, **({} if forecasts else nothing)))
    value = found["value"]
    # Gain per decision of the incumbent, in decisions that are not random
    own = 0.7 * 0.4
    incumbent = 0.8 * own + 0.2 * 0.35
    # The challenger always shows an ad, so its value is scaled to the incumbent's number of ads.
    challenger = 0.55 * (0.8 * 0.7 + 0.2)
    assert value["incumbent"] == pytest.approx(incumbent, rel=0.08)
    assert value["challenger_ci"][0] < challenger < value["challenger_ci"][1]
    assert value["difference_ci"][0] < challenger - incumbent < value["difference_ci"][1]
    assert value["difference_ci"][0] > 0
    assert found["not_evaluable"] is None


def test_the_interval_covers_the_truth() -> None:
    truth = 0.55 - (0.8 * 0.4 + 0.2 * 0.35)
    low_high = [report(world(2000, 0.2, seed))["value"]["difference_ci"] for seed in range(40)]
    # With intervals of 95 % coverage, this fails in less than 1 % of all cases.
    assert sum(low < truth < high for low, high in low_high) >= 34


def test_agreement_compares_choices_without_exploration() -> None:
    found = report(world(4000, explored=0.5, skipped=0.5), by=["kind"])
    agreement = found["agreement"]
    assert agreement["same_channel"] == pytest.approx(0.5, abs=0.03)  # users of kind b
    assert agreement["incumbent_exposes"] == agreement["same_exposure"] == pytest.approx(0.5, abs=0.03)
    assert agreement["challenger_exposes"] == 1.0
    assert agreement["same_action_ci"][0] < agreement["same_action"] < agreement["same_action_ci"][1]
    by_kind = {segment["segment"]: segment["agreement"]["same_channel"] for segment in found["segments"]["kind"]}
    assert by_kind == {"a": 0.0, "b": 1.0}
    assert {(pair["incumbent"], pair["challenger"]) for pair in found["channels"]} == {
        ("search", "video"),
        ("search", "search"),
    }


def test_an_unknown_segment_is_a_segment() -> None:
    rows = world(300, 0.2)
    rows.loc[:99, "kind"] = None
    *known, unknown = report(rows, by=["kind"])["segments"]["kind"]
    assert [segment["segment"] for segment in known] in (["a", "b"], ["b", "a"])
    assert (unknown["segment"], unknown["decisions"]) == (None, 100)
    assert not report(rows.head(0).reindex(range(3)).assign(arm="challenger", fault="x"), by=["kind"])["segments"][
        "kind"
    ]


def test_actions_that_the_incumbent_never_takes_are_not_valued() -> None:
    found = report(world(2000, explored=0.0))
    assert found["value"] is None
    assert_says(found["not_evaluable"], messages.IMPOSSIBLE, share=pytest.approx(0.5, abs=0.05))
    assert found["agreement"]["same_channel"] == pytest.approx(0.5, abs=0.05)
    assert in_words(found)[-1].endswith(found["not_evaluable"])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"left_out": "no_probabilities"}, messages.NO_INCUMBENT_PROBABILITIES),
        ({"left_out": "not_mature"}, messages.NOT_MATURE),
        ({"challenger_channel_probs": [[np.nan, np.nan]] * 500}, messages.NO_CHALLENGER_PROBABILITIES),
        ({"challenger_exposure_probs": [[np.nan, np.nan]] * 500}, messages.NO_CHALLENGER_PROBABILITIES),
    ],
)
def test_missing_probabilities_or_outcomes_are_reported(changes: dict[str, Any], why: messages.Words) -> None:
    found = report(world(500, 0.2, **changes))
    assert found["valued"] == 0
    assert_says(found["not_evaluable"], why)
    assert sum(found["not_valued"].values()) == 500
    assert found["agreement"]["challenger_exposes"] == 1.0


def test_faults_fallbacks_and_earlier_models_are_counted_and_left_out() -> None:
    rows = world(600, 0.2)
    rows.loc[:99, "model"] = "m0"
    rows.loc[100:149, "fault"] = "model_timeout"
    rows.loc[150:159, "decided"] = False
    found = report(rows)
    assert found["left_out"] == {"incumbent_fell_back": 10, "model_timeout": 50, "other_model": 100}
    assert (found["decisions"], found["model"]) == (440, "m1")


def test_a_challenger_that_never_answers_has_no_figures() -> None:
    found = report(world(50, 0.2, fault="model_error", model=""))
    assert (found["decisions"], found["agreement"], found["value"]) == (0, None, None)
    assert found["left_out"] == {"model_error": 50}
    assert in_words(found)


@given(seed=st.integers(0, 1000), explored=st.floats(0.0, 1.0), skipped=st.floats(0.0, 1.0))
def test_any_log_has_a_report(seed: int, explored: float, skipped: float) -> None:
    found = shadow_report(world(60, explored, seed, skipped), CHANNELS, by=["kind"], resamples=20)["challenger"]
    assert found["decisions"] == 60 == sum(segment["decisions"] for segment in found["segments"]["kind"])
    assert 0.0 <= found["agreement"]["same_action"] <= found["agreement"]["same_exposure"] <= 1.0
    assert (found["value"] is None) == (found["not_evaluable"] is not None)
    assert in_words(found)

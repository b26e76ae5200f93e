"""Tests that a budget plan predicts with the windows of serving."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.evaluation.budget_plan import MORE, BudgetPlan, Curve, Traffic, budget_plan
from mtorl.evaluation.messages import EXPLORATION_SPENDS
from mtorl.evaluation.replay import Replay
from mtorl.evaluation.response import Response
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.decision import Forecast, PolicyParams
from mtorl.policy.exploration import Exploration
from mtorl.runtime.errors import InputError
from mtorl.window.window import WindowBatch, instance_from_history
from tests.messages import raises

SPEC = DatasetSpec.load("simulator").replace(window=3)
HOUR_US = 3_600_000_000


def model(tired: float = 0.5) -> Any:
    """Return a model whose gain depends on hour and channel, times `tired` per earlier exposure."""

    def forecast(batch: WindowBatch) -> Forecast:
        last = np.cumsum(batch.length_B) - 1
        hour_B = np.asarray(batch.context["hour"])[last]
        gain_BC = (0.05 + 0.4 * hour_B[:, None] / 24 * np.array([1.0, 0.5, 0.2, 0.7])) * tired ** (batch.length_B - 1)[
            :, None
        ]
        return Forecast(np.zeros_like(gain_BC), gain_BC, np.tile([0.5, 0.3, 0.2, 0.4], (len(last), 1)))

    params = PolicyParams(advantage_weight=3.0, exploration=0.05, price=0.5, utility_scale=0.1)
    return SimpleNamespace(spec=SPEC, policy=params, forecast=forecast)


def decisions(users: int = 60, turns: int = 5, seed: int = 0) -> pd.DataFrame:
    """Return decisions for users without a past, a third of them exposed."""
    random, rows = np.random.default_rng(seed), []
    for user, turn in np.ndindex(users, turns):
        at, campaign = (user * 7 + turn * 31) * HOUR_US, f"c{user % 2}"
        context = {"hour": float(random.integers(24)), "device": "mobile", "placement": "feed"}
        window = instance_from_history({}, context, {}, SPEC, at)
        exposed = random.random() < 1 / 3
        row = {"user_id": f"u{user:03d}", "timestamp": at, "campaign_id": campaign, "window": json.dumps(window)}
        row |= {"channel": SPEC.channels[random.integers(4)], "exposed": exposed}
        click = float(exposed and random.random() < 0.3)
        rows.append({**row, "click": click, "gain": click, "conversion": 0.0, "revenue": 0.0, "cost": 0.3 * exposed})
    return pd.DataFrame(rows)


ROWS = decisions()


@pytest.fixture(scope="module")
def planned() -> BudgetPlan:
    return budget_plan(Replay.of(ROWS, model(), Exploration(share=0.05)), ROWS, 20.0, Traffic(300.0, 20.0))


def test_a_replayed_window_equals_that_of_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[dict[str, Any]]] = []
    whole = WindowBatch.from_instances.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        WindowBatch,
        "from_instances",
        classmethod(lambda cls, items, spec: (seen.append(list(items)), whole(cls, items, spec))[1]),
    )
    replay = Replay.of(ROWS, model(tired=1.0), Exploration(share=1.0))  # every decision is exposed
    seen.clear()
    replay.at(0.0)
    for user in (0, 41):
        windows = [turn[user] for turn in seen]
        newest = windows[-1]
        touchpoints = [(one["timestamp"], {n: values[-1] for n, values in one["context"].items()}) for one in windows]
        channels = [*(one["prev_channel"][-1] for one in windows[1:])]
        history: dict[str, list[Any]] = {"hist_timestamp": [at for at, _ in touchpoints[:-1]], "hist_channel": channels}
        for name in SPEC.window_outcomes:
            history[f"hist_{name}"] = [one[f"prev_{name}"][-1] for one in windows[1:]]
        for name in ("hour", "device", "placement"):
            history[f"hist_{name}"] = [context[name] for _, context in touchpoints[:-1]]
        at, context = touchpoints[-1]
        assert newest == instance_from_history(history, context, {}, SPEC, at)
        assert newest["prev_cost"][-1] > 0


def test_other_exposures_lead_to_other_forecasts() -> None:
    replay = Replay.of(ROWS, model(), None)
    bought, saved = replay.at(0.0), replay.at(1e6)
    assert not saved.exposing_BC.any() and (saved.forecast_BC == replay.logged.gain_BC).all()
    assert bought.forecast_BC.sum() < saved.forecast_BC.sum()
    assert (replay.at(0.2).exposing_BC == replay.at(0.2).exposing_BC).all()


@given(st.floats(0.3, 3.0), st.integers(0, 9))
def test_a_response_corrects_the_level_of_forecasts(factor: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    true_N, channel_N = random.uniform(0.05, 0.5, 3000), random.integers(4, size=3000)
    gain_N = (random.random(3000) < true_N).astype(float)
    fitted = Response.fit(factor * true_N, channel_N, gain_N, 4)
    expected_N = fitted.gain(np.repeat(factor * true_N[:, None], 4, axis=1))[np.arange(3000), channel_N]
    assert expected_N.sum() == pytest.approx(gain_N.sum(), rel=1e-3) and np.abs(expected_N / true_N - 1).mean() < 0.15


def test_a_plan_adds_up(planned: BudgetPlan) -> None:
    assert planned.chosen.spend == 20.0 and planned.left_over == 0.0
    assert planned.more.spend == pytest.approx(MORE * 20.0) and planned.added > 0
    wholes = {"spend": planned.chosen.spend, "gain": planned.chosen.gain, "today_spend": planned.today.spend}
    for of, whole in wholes.items():
        assert sum(getattr(part, of) for part in planned.split) == pytest.approx(whole)
    assert [part.campaign for part in planned.split] == ["c0"] * 4 + ["c1"] * 4
    points = planned.curve
    assert [point.gain for point in points] == sorted(point.gain for point in points)
    assert [point.price for point in points] == sorted((point.price for point in points), reverse=True)
    assert all(point.gain_ci[0] < point.gain < point.gain_ci[1] for point in points)


def test_budget_beyond_the_worthwhile_exposures_is_left_over(planned: BudgetPlan) -> None:
    replay = Replay.of(ROWS, model(), None)
    ample = budget_plan(replay, ROWS, 1000.0, Traffic(300.0, 0.0))
    assert 0 < ample.chosen.spend < 160 and ample.left_over == pytest.approx(1000.0 - ample.chosen.spend)
    assert len(ample.curve) >= 4 and ample.curve[-1].spend == ample.chosen.spend
    with raises(InputError, EXPLORATION_SPENDS):
        budget_plan(Replay.of(ROWS, model(), Exploration(share=0.5)), ROWS, 1.0, Traffic(300.0, 0.0))


def test_a_curve_interpolates_and_traffic_has_the_spread_of_its_days() -> None:
    curve = Curve.through(np.array([1.0, 3.0, 2.0]), np.array([1.0, 1.7, 1.5]), np.array([0.9, 0.1, 0.3]))
    assert [curve.gain(spend) for spend in (0.5, 1.0, 2.0, 3.0, 4.0)] == pytest.approx([0.5, 1.0, 1.5, 1.7, 1.8])
    week = Traffic.of([90.0, 110.0, 100.0, 100.0], 7.0)
    assert week.decisions == 700.0 and week.spread == pytest.approx(np.sqrt(200 / 3) * np.sqrt(7 + 49 / 4))

"""Tests that a replay counts and weights only decisions that match the log."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.dataset import Column, DatasetSpec, RewardSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines.loop.traffic_sources import (
    RepeatedTraffic,
    ReplayedTraffic,
    ShiftedTraffic,
    SimulatedTraffic,
    Touchpoint,
    stretch_of_each,
)

SPEC = DatasetSpec(
    name="tiny",
    description="four touchpoints a user",
    adapter="touchpoints",
    channels=("a", "b"),
    context=(Column(name="hour", kind="numeric"), Column(name="device", kind="categorical")),
    static=(),
    segment=None,
    reward=RewardSpec(gain="click"),
    propensity="logged",
    currency="EUR",
)


@pytest.fixture
def log() -> pd.DataFrame:
    log = journeys_of([4, 4, 4]).assign(propensity=0.25)
    device = log["hour"].map(lambda hour: "phone" if hour else "tv")
    return log.assign(user_id=log["user_id"].map({"u00": "u1", "u01": "u2", "u02": "u3"}), device=device)


@pytest.fixture
def traffic(log: pd.DataFrame) -> ReplayedTraffic:
    """Return a replay of two users in nine rounds, enough for all of their touchpoints."""
    traffic, before = ReplayedTraffic.from_log(log, log["propensity"], ["u1", "u3"], 9, SPEC, seed=0)
    assert traffic.opportunities == {"u1": 4, "u3": 4} and before["user_id"].unique().tolist() == ["u2"]
    return traffic


def journeys_of(lengths: list[int]) -> pd.DataFrame:
    """Return a log of journeys of these lengths; `hour` is the touchpoint's number in its journey."""
    rows = [
        {
            "user_id": f"u{user:02}",
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=step),
            "campaign_id": "c",
            "channel": "ab"[step % 2],
            "cost": 0.5,
            "click": step % 2,
            "conversion": 0,
            "revenue": 0.0,
            "propensity": 0.5,
            "hour": float(step),
            "device": "phone",
        }
        for user, length in enumerate(lengths)
        for step in range(length)
    ]
    return pd.DataFrame(rows)


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_the_history_at_each_replayed_touchpoint_is_exactly_what_precedes_it(
    lengths: list[int], asked: list[bool], rounds: int, seed: int
) -> None:
    log = journeys_of(lengths)
    users = [user for user, wanted in zip(log["user_id"].unique(), [True, *asked], strict=False) if wanted]
    traffic, before = ReplayedTraffic.from_log(log, log["propensity"], users, rounds, SPEC, seed)
    assert set(traffic.opportunities) <= set(users)
    assert list(before.columns) == list(log.columns)
    for user, journey in log.groupby("user_id"):
        history = before.loc[before["user_id"] == user, "hour"].tolist()
        if user not in traffic.opportunities:
            assert history == journey["hour"].tolist()
            continue
        for turn in range(traffic.opportunities[str(user)]):
            opportunity = traffic.opportunity(str(user), turn)
            assert history == list(range(opportunity["timestamp"].hour + 24 * (opportunity["timestamp"].day - 1)))
            touchpoint = traffic.respond(str(user), turn, {"expose": True, "channel": "a"}).touchpoint
            assert touchpoint is not None and asdict(touchpoint)["context"] == opportunity["context"]
            history.append(touchpoint.context["hour"])


@given(st.integers(1, 60), st.floats(0.01, 1.0))
def test_every_touchpoint_of_a_journey_is_equally_likely(length: int, share: float) -> None:
    places = (np.arange(4000) + 0.5) / 4000
    step, place = np.meshgrid(np.arange(length), places)
    chosen = stretch_of_each(step, np.full(step.shape, length), share, place)
    assert chosen.mean(axis=0) == pytest.approx(np.full(length, share), abs=2 / 4000)
    assert (np.abs(np.diff(chosen.astype(int), prepend=0, append=0)).sum(axis=1) <= 2).all()  # contiguous


@pytest.mark.parametrize(
    ("expose", "channel", "weight", "outcomes"),
    [
        # A match is weighted by 1 / propensity.
        (True, "b", 4.0, {"cost": 0.5, "click": 1.0}),
        # A mismatch does not count, and its reservation is cancelled.
        (True, "a", 0.0, {"cancel": 0.0}),
        (False, "a", 1.0, {}),
    ],
)
def test_weight_of_a_replayed_decision(
    traffic: ReplayedTraffic, expose: bool, channel: str, weight: float, outcomes: dict[str, float]
) -> None:
    response = traffic.respond("u1", 1, {"expose": expose, "channel": channel})
    assert (response.weight, dict(response.outcomes)) == (weight, outcomes)


@pytest.mark.parametrize("channel", ["a", "b"])
def test_the_logged_touchpoint_enters_the_history_whatever_was_chosen(traffic: ReplayedTraffic, channel: str) -> None:
    assert traffic.respond("u3", 2, {"expose": True, "channel": channel}).touchpoint == Touchpoint(
        pd.Timestamp("2024-01-01 02:00", tz="UTC"),
        "a",
        {"hour": 2.0, "device": "phone"},
        {"click": 0.0, "conversion": 0.0, "revenue": 0.0, "cost": 0.5},
    )


def test_a_simulated_exposure_is_a_touchpoint_at_the_time_of_the_opportunity() -> None:
    simulator = Simulator(SimulatorConfig(users=50))
    users = simulator.user_ids[:5]
    traffic = SimulatedTraffic(simulator.online(users, 2, seed=1), dict.fromkeys(users, 2))
    for turn in (0, 1):
        opportunity = traffic.opportunity(users[0], turn)
        response = traffic.respond(users[0], turn, {"expose": True, "channel": simulator.spec.channels[turn]})
        touchpoint = response.touchpoint
        assert touchpoint is not None and touchpoint.channel == simulator.spec.channels[turn]
        assert (touchpoint.timestamp, touchpoint.context) == (opportunity["timestamp"], opportunity["context"])
        assert dict(response.outcomes) == {k: v for k, v in touchpoint.outcomes.items() if v or k == "cost"}
    skipped = traffic.respond(users[1], 0, {"expose": False, "channel": simulator.spec.channels[0]})
    assert skipped.touchpoint is None and not skipped.outcomes


def test_shifted_and_repeated_traffic_spends_nothing(traffic: ReplayedTraffic, log: pd.DataFrame) -> None:
    shifted = ShiftedTraffic(traffic, most_users=1, times=2, spec=SPEC, reference=log)
    again = RepeatedTraffic(traffic, most_users=1)
    before, after = traffic.opportunity("u1", 0)["context"], shifted.opportunity("u1", 1)["context"]
    assert after["hour"] == pytest.approx(before["hour"] + 2 * log["hour"].std())
    assert shifted.opportunities == {"u1": 2} and again.opportunities == {"u1": 1}
    assert again.opportunity("u1", 0) == traffic.opportunity("u1", 0)
    for source in (shifted, again):
        shown, kept = (source.respond("u1", 0, {"expose": expose, "channel": "a"}) for expose in (True, False))
        assert list(shown.outcomes) == [("cancel", 0.0)] and not kept.outcomes and shown.touchpoint is None

"""Replay of a real log: what counts, with which weight, and what the journey remembers."""

import numpy as np
import pandas as pd
import pytest

from features.online.history import Touchpoint
from mtorl.log.dataset import Column, DatasetSpec, RewardSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines.loop.traffic_sources import ReplayedTraffic, ShiftedTraffic, SimulatedTraffic

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
    users = ["u1", "u2", "u3"]
    rows = [
        {
            "user_id": user,
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=turn),
            "campaign_id": "c",
            "channel": "ab"[turn % 2],
            "cost": 0.5,
            "click": turn % 2,
            "conversion": 0,
            "revenue": 0.0,
            "propensity": 0.25,
            "hour": float(turn),
            "device": "phone" if turn else "tv",
        }
        for user in users
        for turn in range(4)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def traffic(log: pd.DataFrame) -> ReplayedTraffic:
    return ReplayedTraffic.from_log(log, log["propensity"], ["u1", "u3"], 2, SPEC)[0]


def test_the_last_touchpoints_of_the_chosen_users_are_cut_off(log: pd.DataFrame) -> None:
    traffic, history = ReplayedTraffic.from_log(log, log["propensity"], ["u1", "u3"], 2, SPEC)
    assert traffic.users == ["u1", "u3"]
    assert history.groupby("user_id").size().to_dict() == {"u1": 2, "u2": 4, "u3": 2}
    opportunities = [traffic.opportunity("u1", turn) for turn in (0, 1)]
    assert [opportunity["context"]["hour"] for opportunity in opportunities] == [2.0, 3.0]
    assert [opportunity["timestamp"].hour for opportunity in opportunities] == [2, 3]
    assert list(history.columns) == list(log.columns)


def test_a_user_without_history_is_not_replayed(log: pd.DataFrame) -> None:
    traffic, history = ReplayedTraffic.from_log(log, log["propensity"], ["u1"], 4, SPEC)
    assert traffic.users == [] and len(history) == len(log)


def test_a_match_counts_with_one_over_its_propensity(traffic: ReplayedTraffic) -> None:
    response = traffic.respond("u1", 1, {"expose": True, "channel": "b"})
    assert response.weight == 4.0
    assert dict(response.outcomes) == {"cost": 0.5, "click": 1.0}


def test_a_mismatch_does_not_count_and_frees_its_reservation(traffic: ReplayedTraffic) -> None:
    response = traffic.respond("u1", 1, {"expose": True, "channel": "a"})
    assert response.weight == 0.0 and list(response.outcomes) == [("cancel", 0.0)]


def test_no_exposure_counts_as_it_is(traffic: ReplayedTraffic) -> None:
    response = traffic.respond("u1", 0, {"expose": False, "channel": "a"})
    assert response.weight == 1.0 and not response.outcomes


@pytest.mark.parametrize("channel", ["a", "b"])
def test_the_logged_touchpoint_happened_whatever_was_chosen(traffic: ReplayedTraffic, channel: str) -> None:
    assert traffic.respond("u3", 0, {"expose": True, "channel": channel}).touchpoint == Touchpoint(
        pd.Timestamp("2024-01-01 02:00", tz="UTC"),
        "a",
        {"hour": 2.0, "device": "phone"},
        {"click": 0.0, "conversion": 0.0, "revenue": 0.0, "cost": 0.5},
    )


def test_a_simulated_exposure_is_a_touchpoint_at_the_time_of_the_opportunity() -> None:
    simulator = Simulator(SimulatorConfig(users=50))
    users = simulator.user_ids[:5]
    traffic = SimulatedTraffic(simulator.online(users, 2, seed=1), users, 2)
    for turn in (0, 1):
        opportunity = traffic.opportunity(users[0], turn)
        response = traffic.respond(users[0], turn, {"expose": True, "channel": simulator.spec.channels[turn]})
        touchpoint = response.touchpoint
        assert touchpoint is not None and touchpoint.channel == simulator.spec.channels[turn]
        assert (touchpoint.timestamp, touchpoint.context) == (opportunity["timestamp"], opportunity["context"])
        assert dict(response.outcomes) == {k: v for k, v in touchpoint.outcomes.items() if v or k == "cost"}
    skipped = traffic.respond(users[1], 0, {"expose": False, "channel": simulator.spec.channels[0]})
    assert skipped.touchpoint is None and not skipped.outcomes


def test_the_weighted_replay_is_unbiased_for_a_logger_that_is_not_uniform() -> None:
    rng = np.random.default_rng(0)
    users, chance = [f"u{i}" for i in range(4000)], {"a": 0.2, "b": 0.8}
    rows = []
    for user in users:
        for turn in range(2):
            channel = "a" if rng.random() < chance["a"] else "b"
            click = int(rng.random() < (0.5 if channel == "a" else 0.1))
            when = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=turn)
            rows.append((user, when, "c", channel, 1.0, click, 0, 0.0, chance[channel], 0.0, "tv"))
    columns = ["user_id", "timestamp", "campaign_id", "channel", "cost", "click", "conversion", "revenue", "propensity"]
    log = pd.DataFrame(rows, columns=[*columns, "hour", "device"])
    traffic, _ = ReplayedTraffic.from_log(log, log["propensity"], users, 1, SPEC)
    weight = gain = 0.0
    for user in users:  # a policy that takes "a" half of the time is worth 0.3 clicks
        response = traffic.respond(user, 0, {"expose": True, "channel": "a" if rng.random() < 0.5 else "b"})
        weight += response.weight
        gain += response.weight * dict(response.outcomes).get("click", 0.0)
    assert gain / weight == pytest.approx(0.3, abs=0.03)


def test_shifted_traffic_moves_the_context_and_spends_nothing(traffic: ReplayedTraffic, log: pd.DataFrame) -> None:
    shifted = ShiftedTraffic(traffic, SPEC, log)
    before, after = traffic.opportunity("u1", 0)["context"], shifted.opportunity("u1", 0)["context"]
    assert after["hour"] == pytest.approx(before["hour"] + 2 * log["hour"].std())
    assert list(shifted.respond("u1", 0, {"expose": True, "channel": "a"}).outcomes) == [("cancel", 0.0)]

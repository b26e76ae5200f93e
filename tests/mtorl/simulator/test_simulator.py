import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.ingest.ingest import ingest_log
from mtorl.log.touchpoints import fingerprint, write_log
from mtorl.simulator.market import CHANNELS, Draws
from mtorl.simulator.simulator import Outcome, Simulator, SimulatorConfig
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, instance_from_history

USERS = [f"u{i:06d}" for i in range(0, 400, 2)]


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SimulatorConfig(users=3000, seed=11))


@pytest.fixture(scope="module")
def log(simulator) -> pd.DataFrame:
    return simulator.log()


def touchpoint(row, channel, outcome):
    outcomes = {name: getattr(outcome, name) for name in ("cost", "click", "conversion", "revenue")}
    known = {name: row[name] for name in ("user_id", "campaign_id")} | {"channel": channel, "propensity": 0.25}
    at = pd.Timestamp(row["at"], unit="us", tz="UTC")
    return {**known, "timestamp": at, **outcomes, **row["context"], **row["static"]}


def test_the_log_is_canonical_and_valid(simulator, log, tmp_path):
    write_log(log, tmp_path / "raw.parquet", simulator.spec)
    report = ingest_log(tmp_path / "raw.parquet", simulator.spec, tmp_path / "log.parquet", tmp_path / "q.csv")
    assert report.faults == () and report.fingerprint == fingerprint(log)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "log.parquet"), log)


def test_the_log_looks_like_advertising(simulator, log):
    journeys = log.groupby("user_id").size()
    assert len(journeys) == 3000 and journeys.min() >= 2 and journeys.max() <= 60
    assert 11 < journeys.mean() < 13
    assert 0.05 < log["click"].mean() < 0.12
    assert 0.005 < log["conversion"].mean() < 0.02
    assert (log["click"] >= log["conversion"]).all() and ((log["revenue"] > 0) == (log["conversion"] == 1)).all()
    assert log["timestamp"].min() >= pd.Timestamp("2024-03-01", tz="UTC")
    assert log["timestamp"].max() < pd.Timestamp("2024-03-22", tz="UTC")
    assert (log["hour"] == log["timestamp"].dt.hour).all()
    means = log.groupby("channel")["cost"].mean()
    assert log["cost"].min() > 0 and means.max() > 2 * means.min()
    assert all(log.loc[log["channel"] == c, "cost"].max() <= cap for c, cap in simulator.cost_cap.items())


def test_only_equal_seeds_give_equal_logs(log):
    config = SimulatorConfig(users=3000, seed=11)
    assert fingerprint(Simulator(config).log()) == fingerprint(log)
    assert fingerprint(Simulator(SimulatorConfig(users=3000, seed=12)).log()) != fingerprint(log)


def test_a_user_does_not_depend_on_the_number_of_users(log):
    small = Simulator(SimulatorConfig(users=100, seed=11)).log()
    pd.testing.assert_frame_equal(small, log.iloc[: len(small)])


def test_callers_cannot_change_the_log(simulator, log):
    simulator.log()["click"] = 1
    simulator.click_probability()[:] = 0
    assert fingerprint(simulator.log()) == fingerprint(log) and simulator.click_probability().min() > 0


def test_propensities_are_those_of_the_logging_policy(log):
    assert log["propensity"].min() >= 0.05
    # Each age group has one propensity per channel, and these propensities add up to 1.
    table = log.groupby(["age_group", "channel"])["propensity"].agg(["min", "max", "size"])
    assert (table["min"] == table["max"]).all()
    assert table["min"].groupby("age_group").sum().to_numpy() == pytest.approx(1)
    # The frequencies must be within four standard errors of the propensities.
    total = table["size"].groupby("age_group").transform("sum")
    error = np.sqrt(table["min"] * (1 - table["min"]) / total)
    assert (abs(table["size"] / total - table["min"]) < 4 * error).all()


def test_clicks_are_drawn_with_their_probabilities(simulator, log):
    p = simulator.click_probability()[np.arange(len(log)), log["channel"].map(CHANNELS.index)]
    for _, rows in log.assign(p=p).groupby(pd.qcut(p, 8), observed=True):
        error = np.sqrt((rows["p"] * (1 - rows["p"])).sum()) / len(rows)
        assert abs(rows["click"].mean() - rows["p"].mean()) < 4 * error


@pytest.mark.parametrize("channel", [*CHANNELS, "by device"])
def test_importance_weights_recover_the_value_of_a_fixed_policy(simulator, log, channel):
    device = log["device"].map({"mobile": "social", "desktop": "search", "tablet": "video"})
    chosen = device if channel == "by device" else pd.Series(channel, log.index)
    true_rate = simulator.click_probability()[np.arange(len(log)), chosen.map(CHANNELS.index)].mean()
    weighted = log["click"] * (log["channel"] == chosen) / log["propensity"]
    by_user = (weighted - true_rate).groupby(log["user_id"]).sum()
    error = np.sqrt((by_user**2).sum()) / len(log)
    # With five policies, only one of 200 seeds would fail by chance.
    assert abs(weighted.mean() - true_rate) < 3.3 * error
    assert error < 0.1 * true_rate


def test_probabilities_contain_carry_over_fatigue_and_season(simulator, log):
    p = pd.DataFrame(simulator.click_probability(), columns=CHANNELS)
    last = log.groupby("user_id")["channel"].shift()
    assert p["display"][last == "display"].mean() < 0.85 * p["display"][last == "search"].mean()
    assert p["search"][last == "display"].mean() > p["search"][last == "search"].mean()
    assert p["search"][log["hour"] == 11].mean() > 1.3 * p["search"][log["hour"] == 23].mean()


def test_online_opportunities_continue_after_the_log(simulator, log):
    online = simulator.online(USERS, 3, 1)
    found = online.opportunity(USERS[1], 2)
    assert found["campaign_id"] == "spring-sale" and list(found["context"]) == ["hour", "device", "placement"]
    assert found["timestamp"].date() == dt.date(2024, 3, 24) and found["timestamp"].tzinfo == dt.UTC
    assert found["timestamp"].hour == found["context"]["hour"]


def test_a_choice_affects_only_its_user_and_later_rounds(simulator):
    one, two = (simulator.online(USERS, 4, 5) for _ in range(2))
    for turn in range(4):
        first = [one.step(user, turn, "search") for user in USERS]
        # In the second simulation, users come in reverse order, and the first user gets another ad in round 1.
        second = {u: two.step(u, turn, "video" if (u, turn) == (USERS[0], 1) else "search") for u in USERS[::-1]}
        changed = [u for u, outcome in zip(USERS, first, strict=True) if second[u] != outcome]
        assert set(changed) <= ({USERS[0]} if turn else set())
        assert (USERS[0] in changed) == (turn >= 1)
        assert one.opportunity(USERS[0], turn) == two.opportunity(USERS[0], turn)


def test_seeds_change_the_future(simulator):
    one, two = simulator.online(USERS, 1, 1), simulator.online(USERS, 1, 2)
    assert [one.step(u, 0, "search") for u in USERS] != [two.step(u, 0, "search") for u in USERS]


def test_without_exposure_there_is_no_cost_and_fatigue_recovers(simulator):
    tired, rested, skipped = (simulator.online(USERS, 3, 5) for _ in range(3))
    for user in USERS:
        assert rested.step(user, 0, None) == Outcome(0.0, 0, 0, 0.0, 0.0, 0.0, 0.0)
        tired.step(user, 0, "display")
        rested.step(user, 1, None)
        tired.step(user, 1, "display")
    display = CHANNELS.index("display")
    assert (tired.click_probability(2)[:, display] < rested.click_probability(2)[:, display]).all()
    # Leaving out a round is like showing no ad in it.
    assert skipped.step(USERS[0], 2, "social") == rested.step(USERS[0], 2, "social")


def test_rounds_must_be_in_order(simulator):
    online = simulator.online(USERS, 2, 1)
    online.step(USERS[0], 1, "search")
    for turn in (0, 1, 2, -1):
        with pytest.raises(ValueError, match=f"^round {turn} "):
            online.step(USERS[0], turn, "search")


@pytest.mark.parametrize("gap_days", [30.0, 1.5])
def test_a_policy_in_the_simulator_sees_the_windows_of_the_grown_log(simulator, log, gap_days):
    spec = simulator.spec.replace(journey_gap_days=gap_days)
    online, stepped = simulator.online(USERS, 3, 3), simulator.online(USERS, 3, 3)
    random, new, served = np.random.default_rng(1), [], []
    for turn in range(3):
        rows = online.rows(turn)
        channel = random.integers(-1, len(CHANNELS), len(USERS))  # -1 means no exposure
        for i, (user, code) in enumerate(zip(USERS, channel, strict=True)):
            name = CHANNELS[code] if code >= 0 else None
            outcome = stepped.step(user, turn, name)
            if name is not None:
                served.append(
                    instance_from_history(
                        rows[i]["history"], rows[i]["context"], rows[i]["static"], spec, rows[i]["at"]
                    )
                )
                new.append(touchpoint(rows[i], name, outcome) | {"new": len(new)})
        online.advance(turn, channel)
    grown = pd.concat([log[log["user_id"].isin(USERS)], pd.DataFrame(new)], ignore_index=True)
    grown = grown.sort_values(["user_id", "timestamp"], ignore_index=True)
    where = grown[grown["new"].notna()].sort_values("new").index.to_numpy()
    trained = WindowBatch.from_steps(pa.Table.from_pandas(grown, preserve_index=False), where, spec)
    encoder = Encoder.fit(trained, spec)
    assert len(trained) == len(served) > 400
    x, x_served = (encoder.encode(b)[0] for b in (trained, WindowBatch.from_instances(served, spec)))
    assert x.tobytes() == x_served.tobytes()
    # Some pauses exceed the shorter gap, so these journeys are split.
    assert (trained.length_B == 1).any() == (gap_days < 30)


def test_a_budget_stops_exposures_before_it_is_exceeded(simulator):
    online = simulator.online(USERS, 1, 9)
    found = online.advance(0, np.zeros(len(USERS), dtype=np.int64), budget=10.0)
    assert 10.0 - simulator.cost_cap["search"] < found["cost"].sum() <= 10.0
    exposed = found["cost"] > 0
    assert exposed[: exposed.sum()].all()  # no exposure after the first refusal


def test_a_round_may_be_played_in_parts_of_the_users(simulator):
    whole, parts = (simulator.online(USERS, 2, 9) for _ in range(2))
    channel = np.arange(len(USERS)) % 5 - 1
    for turn in range(2):
        expected = whole.advance(turn, channel)
        for part in (slice(0, 7), slice(7, 8), slice(8, None)):
            found = parts.advance(turn, channel[part], users=part)
            assert all((found[name] == values[part]).all() for name, values in expected.items())
        assert parts.rows(min(turn + 1, 1)) == whole.rows(min(turn + 1, 1))


@given(st.integers(0, 2**31), st.integers(0, 2**31), st.integers(0, 1000))
def test_random_draws_are_uniform_and_stable(seed, first, step):
    draws = Draws(seed)
    u = draws("x", np.arange(first, first + 2000), step)
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5.5 * np.sqrt(1 / 12 / 2000)
    assert draws("x", first, step)[0] == u[0] and Draws(seed)("x", first, step)[0] == u[0]
    assert draws("y", first, step)[0] != u[0] and Draws(seed, 0)("x", first, step)[0] != u[0]
    assert abs(np.corrcoef(u, draws("x", np.arange(first, first + 2000), step + 1))[0, 1]) < 5.5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("change", "message"), [({"users": 0}, "users must be at least 1"), ({"days": 0}, "days must be at least 1")]
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        SimulatorConfig(**change)


def test_expected_outcomes_equal_mean_outcomes():
    simulator = Simulator(SimulatorConfig(users=4000, seed=5))
    sums: dict[str, float] = {}
    squares = 0.0
    for seed in range(6):
        online = simulator.online(list(simulator.user_ids), 3, seed)
        for round_index in range(3):
            found = online.advance(round_index, np.arange(4000) % 4)
            for name, values in found.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            squares += float((found["revenue"] ** 2).sum())
    for name in ("click", "conversion"):
        assert sums[f"expected_{name}"] == pytest.approx(sums[name], abs=5 * sums[name] ** 0.5)
    assert sums["expected_revenue"] == pytest.approx(sums["revenue"], abs=5 * squares**0.5)

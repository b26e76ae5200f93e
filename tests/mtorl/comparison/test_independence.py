"""Tests that the independence test finds dependences and rarely gives a false alarm."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mtorl.comparison.independence import chi2_moments, holm, independence, link
from mtorl.log.dataset import DatasetSpec
from mtorl.window.table import WindowTable

SPEC = DatasetSpec.load("simulator").replace(channels=("a", "b", "c"), immediate=("click", "cost", "revenue"))
TEXT = {"device": ["mobile", "desktop"], "placement": ["feed", "story"], "age_group": ["young", "old"]}


def log(users: int = 300, steps: int = 12, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = users * steps
    hours = np.cumsum(random.exponential(5.0, size=(users, steps)), axis=1)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{i}" for i in range(users)], steps),
            "timestamp": pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(hours.ravel(), "h"),
            "step": np.tile(np.arange(steps), users),
            "channel": random.choice(SPEC.channels, size=rows, p=[0.6, 0.3, 0.1]),
            "click": (random.random(rows) < 0.2).astype(int),
            "conversion": 0,
            "revenue": 0.0,
            "cost": random.exponential(size=rows).round(2),
            "propensity": np.nan,
            "hour": 0.0,
            "tenure_days": np.repeat(random.exponential(100.0, size=users).round(), steps),
            "region": None,
        }
    )
    for name, values in TEXT.items():
        size = users if name == "age_group" else rows
        frame[name] = np.repeat(random.choice(values, size=size), rows // size)
    return frame


def judge(frame: pd.DataFrame):
    rows = frame.assign(split=np.array(["train", "val", "test"])[pd.factorize(frame["user_id"])[0] % 3])
    names = [c.name for c in (*SPEC.context, *SPEC.static)]
    steps = pa.Table.from_pandas(frame[[*rows.columns.drop(["split", *names]), *names]], preserve_index=False)
    return independence(WindowTable(steps, rows, SPEC, "abc"))


def test_an_urn_is_independent():
    result = judge(log())
    assert result["independent"] is True
    assert result["verdict"].startswith("no dependence found")
    assert {one["split"] for one in result["tests"]} == {"train", "val", "test"}
    train = {one["against"]: one for one in result["tests"] if one["split"] == "train"}
    assert set(train) == {
        "previous channel", "previous click", "previous cost", "touchpoints before", "user", "time", "hour of day",
        "device", "placement", "age_group", "tenure_days",
    }  # fmt: skip
    assert train["user"]["levels"] == 100 and train["user"]["df"] == 198
    assert train["user"]["chi2_per_df"] == pytest.approx(1.0, abs=0.3)
    # Three channels, and no channel at the start of a journey, make four levels.
    assert train["previous channel"]["levels"] == 4
    json.dumps(result, allow_nan=False)


def test_false_alarms_are_as_rare_as_promised():
    """Few touchpoints per user and a rare channel make the log's tables as sparse as possible."""
    alarms = [not judge(log(users=90, steps=6, seed=seed))["independent"] for seed in range(100)]
    assert np.mean(alarms) <= 0.1


def before(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame.groupby("user_id")[column].shift()


PLANTED = {  # Half of the rows that fulfil a column's condition get the channel c.
    "previous channel": lambda frame: before(frame, "channel") == "c",
    "previous click": lambda frame: before(frame, "click") == 1,
    "previous cost": lambda frame: before(frame, "cost") > frame["cost"].quantile(0.85),
    "device": lambda frame: frame["device"] == "mobile",
    "age_group": lambda frame: frame["age_group"] == "old",
    "tenure_days": lambda frame: frame["tenure_days"] > 200,
    "hour of day": lambda frame: frame["timestamp"].dt.hour.between(8, 14),
    "time": lambda frame: frame["timestamp"] > frame["timestamp"].quantile(0.8),
    "touchpoints before": lambda frame: frame["step"] == 0,
    "user": lambda frame: frame["user_id"].str.endswith("7"),
}


@pytest.mark.parametrize("against", PLANTED)
def test_a_planted_dependence_is_found_and_named(against):
    frame = log(users=600)
    chosen = PLANTED[against](frame).to_numpy() & (np.random.default_rng(1).random(len(frame)) < 0.5)
    result = judge(frame.assign(channel=np.where(chosen, "c", frame["channel"])))
    found = [one for one in result["tests"] if one["p_holm"] < 0.05]
    assert result["independent"] is False and against in {one["against"] for one in found}
    strongest = max(found, key=lambda one: one["cramers_v"])
    assert strongest["against"] in result["verdict"]


def test_outcomes_of_the_same_touchpoint_do_not_count_as_dependence():
    """A click depends on its own touchpoint's channel, which doesn't tell how the channel was chosen."""
    frame = log(users=600)
    frame["click"] = ((frame["channel"] == "c") | (frame["click"] == 1)).astype(int)
    assert judge(frame)["independent"]


def test_the_first_touchpoint_of_a_user_does_not_follow_the_last_of_another():
    frame = log(users=600, steps=2)
    channel = np.where(frame["step"] == 1, frame["channel"], frame["channel"].shift(fill_value="a"))
    assert judge(frame.assign(channel=channel))["independent"]


def test_moments_equal_those_of_shuffled_channels():
    random = np.random.default_rng(0)
    level = np.repeat(np.arange(60), random.integers(1, 9, size=60))
    channel = random.choice(5, size=len(level), p=[0.7, 0.1, 0.1, 0.07, 0.03])
    shuffled = [link(level, random.permutation(channel)) for _ in range(4000)]
    chi2 = np.array([one["chi2"] for one in shuffled])
    mean, variance = chi2_moments(np.bincount(level), np.bincount(channel))
    assert chi2.mean() == pytest.approx(mean, abs=4 * chi2.std() / 4000**0.5)
    assert chi2.var() == pytest.approx(variance, rel=0.1)
    assert abs(variance / (2 * shuffled[0]["df"]) - 1) > 0.1  # the asymptotic variance would be wrong
    for alpha in (0.01, 0.05):
        assert np.mean([one["p"] < alpha for one in shuffled]) == pytest.approx(alpha, abs=0.012)


def test_cramers_v_is_one_for_a_copy_and_none_for_an_urn():
    random = np.random.default_rng(0)
    level = random.integers(3, size=3000)
    assert link(level, level)["cramers_v"] == pytest.approx(1.0, abs=0.01)
    many = np.repeat(np.arange(300), 10)
    assert link(many, level)["cramers_v"] < 0.1  # without the correction, chance would give 0.3


@pytest.mark.parametrize(("level", "channel"), [([0, 0, 0, 0], [0, 1, 0, 1]), ([0, 1, 0, 1], [2, 2, 2, 2]), ([0], [1])])
def test_a_single_level_or_channel_is_not_tested(level, channel):
    assert link(np.array(level), np.array(channel)) is None


def test_levels_of_one_row_each_are_no_evidence():
    found = link(np.arange(50), np.arange(50) % 3)
    assert found["p"] == 1.0


def test_holms_correction_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_a_log_of_one_channel_cannot_be_tested():
    with pytest.raises(ValueError, match="nothing to test"):
        judge(log(users=9).assign(channel="a"))

import numpy as np
import pandas as pd
import pytest

from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import BAD_PROPENSITY
from mtorl.log.propensity import FLOOR, channel_means, logged_propensity
from tests.messages import raises

SPEC = DatasetSpec.load("simulator")  # search, social, display, video


def log(users: int = 600, steps: int = 10, stay: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return random channels; with probability `stay`, a touchpoint repeats its user's previous channel."""
    random = np.random.default_rng(seed)
    channel = random.choice(4, size=(users, steps), p=[0.5, 0.3, 0.15, 0.05])
    for t in range(1, steps):
        channel[:, t] = np.where(random.random(users) < stay, channel[:, t - 1], channel[:, t])
    return pd.DataFrame(
        {
            "user_id": np.repeat([f"u{i}" for i in range(users)], steps),
            "timestamp": pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(np.tile(np.arange(steps), users), "h"),
            "step": np.tile(np.arange(steps), users),
            "split": np.repeat(np.where(np.arange(users) % 3, "train", "test"), steps),
            "channel": np.array(SPEC.channels)[channel.ravel()],
            "propensity": random.uniform(0.1, 0.9, size=users * steps),
        }
    )


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, np.nan])
def test_a_logged_propensity_is_returned_and_an_invalid_one_refused(value):
    windows = log(users=5)
    np.testing.assert_array_equal(logged_propensity(windows, SPEC), windows["propensity"])
    windows.loc[7, "propensity"] = value
    with raises(ValueError, BAD_PROPENSITY, rows=1, row=7):
        logged_propensity(windows, SPEC)


def test_channel_frequency_is_estimated_on_training_users():
    spec = SPEC.replace(propensity="channel-frequency")
    windows = log()
    windows.loc[windows["split"] == "test", "channel"] = "video"  # test users must not count
    propensity = logged_propensity(windows, spec)
    train = windows[windows["split"] == "train"]
    for channel, share in train["channel"].value_counts(normalize=True).items():
        np.testing.assert_allclose(propensity[windows["channel"] == channel], share, atol=0.001)


def test_markov_depends_on_the_previous_channel_and_the_start():
    spec = SPEC.replace(propensity="markov")
    windows = log(users=4000, stay=0.6)
    propensity = logged_propensity(windows, spec)
    before = windows.groupby("user_id")["channel"].shift()
    fresh = windows["channel"].map(dict(zip(SPEC.channels, [0.5, 0.3, 0.15, 0.05], strict=True)))
    true_propensity = np.where(before.isna(), fresh, 0.4 * fresh + 0.6 * (windows["channel"] == before))
    common = true_propensity > FLOOR
    np.testing.assert_allclose(propensity[common], true_propensity[common], atol=0.03)
    assert propensity.min() == FLOOR


def test_markov_restarts_with_every_journey():
    spec = SPEC.replace(propensity="markov")
    windows = log(users=4000, stay=0.6)
    two = windows.assign(step=windows["step"] % 5)  # a new journey begins after five touchpoints
    propensity = logged_propensity(two, spec)
    first = two["step"] == 0
    fresh = windows["channel"].map(windows.loc[(two["split"] == "train") & first, "channel"].value_counts(True))
    np.testing.assert_allclose(propensity[first], np.maximum(fresh[first], FLOOR), atol=0.001)
    before = windows.groupby("user_id")["channel"].shift()
    stayed = ~first & (windows["channel"] == before) & (windows["channel"] == "search")
    np.testing.assert_allclose(propensity[stayed], 0.8, atol=0.03)


@pytest.mark.parametrize("method", ["channel-frequency", "markov"])
def test_a_propensity_that_cannot_be_estimated_is_an_error(method):
    spec = SPEC.replace(propensity=method)
    windows = log(users=5)
    with pytest.raises(ValueError, match="no training rows"):
        logged_propensity(windows.assign(split="test"), spec)
    windows.loc[3, "channel"] = "tv"
    with pytest.raises(ValueError, match="unknown channel 'tv'"):
        logged_propensity(windows, spec)


def test_the_mean_of_a_channel_is_the_value_of_always_choosing_it():
    windows = log(users=4000).drop(columns="propensity")
    kind = np.repeat(np.arange(4000) % 2, 10)
    draw = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])[kind]
    channel = (np.random.default_rng(1).random(40_000)[:, None] > draw.cumsum(axis=1)).sum(axis=1)
    windows = windows.assign(channel=np.array(SPEC.channels)[channel], propensity=draw[np.arange(40_000), channel])
    value = channel + 10.0 * kind
    np.testing.assert_allclose(channel_means(windows, SPEC, value), np.arange(4) + 5, atol=0.25)
    own = np.arange(40_000) % 2 == 1
    mixed = windows.assign(collected=own, propensity=windows["propensity"].mask(own))
    of_others = channel_means(mixed, SPEC, np.where(own, 1e6, value))
    np.testing.assert_allclose(of_others, np.arange(4) + 5, atol=0.35)
    rare = windows[(windows["channel"] != "video") | (np.arange(40_000) < 500)]
    assert channel_means(rare, SPEC, np.zeros(len(rare))) is None

"""Tests that recorded probabilities are those of the whole choice, including exploration."""

import math
from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtorl.experiment.assignment import draw, uniform
from mtorl.policy.exploration import Choice, Exploration, explore

CHANNELS = ("a", "b", "c")
SCOPES = ("channel", "exposure", "both")
probabilities = st.floats(0.0, 1.0)


@st.composite
def choices(draw: Any) -> Choice:
    """Draw a random choice that is possible under its reported probabilities."""
    weights = draw(st.lists(st.floats(0.01, 1.0) | st.just(0.0), min_size=3, max_size=3).filter(any))
    probs = {c: weight / sum(weights) for c, weight in zip(CHANNELS, weights, strict=True)}
    shows = {c: draw(probabilities) for c in CHANNELS}
    channel = draw(st.sampled_from([c for c in CHANNELS if probs[c] > 0]))
    expose = draw(st.booleans()) if 0 < shows[channel] < 1 else shows[channel] == 1
    return Choice(channel, expose, probs, shows)


hows = st.builds(Exploration, share=st.floats(0.001, 1.0), scope=st.sampled_from(SCOPES))
draws = st.floats(0.0, 1.0, exclude_max=True)


@given(choices(), hows, draws)
@example(
    Choice("a", True, dict.fromkeys(CHANNELS, 1 / 3), dict.fromkeys(CHANNELS, 1.0)), Exploration(share=1.0), 1 - 2**-53
)
def test_probabilities_add_up_have_a_floor_and_allow_the_choice(choice: Choice, how: Exploration, v: float) -> None:
    taken, explored = explore(choice, how, CHANNELS, v)
    assert explored == (v < how.share)
    assert math.isclose(sum(taken.channel_probs.values()), 1.0)
    assert list(taken.channel_probs) == list(CHANNELS)
    assert all(0 <= p <= 1 for p in (*taken.channel_probs.values(), *taken.exposure_probs.values()))
    assert taken.channel_probs[taken.channel] > 0
    assert taken.exposure_probs[taken.channel] != float(not taken.expose)
    if how.scope != "exposure":
        assert min(taken.channel_probs.values()) >= how.share / 3
    if how.scope != "channel":
        seen = [taken.channel_probs[c] * taken.exposure_probs[c] for c in CHANNELS if choice.channel_probs[c] > 0]
        assert min(seen) > 0, "exploration may expose every channel that the policy may draw"
    if not explored:
        assert taken[:2] == choice[:2]


@pytest.mark.parametrize("scope", SCOPES)
def test_frequencies_equal_the_recorded_probabilities(scope: Any) -> None:
    """The frequencies in 40,000 draws must be within four standard errors."""
    n, how = 40_000, Exploration(share=0.3, scope=scope)
    probs, shows = {"a": 0.7, "b": 0.3, "c": 0.0}, {"a": 0.0, "b": 1.0, "c": 0.25}
    seen: Counter[tuple[str, bool]] = Counter()
    for i in range(n):
        channel = "a" if uniform("policy", str(i)) < 0.7 else "b"
        own = Choice(channel, channel == "b", probs, shows)
        v = draw("e", "s", f"u{i}", "c", "r", "explore")
        taken, _ = explore(own, how, CHANNELS, v)
        seen[taken.channel, taken.expose] += 1
    for channel, expose in product(CHANNELS, (True, False)):
        shown = taken.exposure_probs[channel]
        p = taken.channel_probs[channel] * (shown if expose else 1 - shown)
        assert abs(seen[channel, expose] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9, (channel, expose)


@given(draws, st.sampled_from(["channel", "both"]))
def test_unknown_probabilities_stay_unknown_after_exploration(v: float, scope: Any) -> None:
    how = Exploration(share=0.5, scope=scope)
    for known in ({}, {"a": 0.4}):
        taken, _ = explore(Choice("a", True, known, {}), how, CHANNELS, v)
        assert (taken.channel_probs, taken.exposure_probs) == ({}, {})
    taken, _ = explore(Choice("a", True, dict.fromkeys(CHANNELS, 1 / 3), {"a": 1.0}), how, CHANNELS, v)
    assert taken.channel_probs and not taken.exposure_probs


def test_without_probabilities_an_explored_channel_keeps_the_exposure() -> None:
    how = Exploration(share=1.0, scope="channel")
    for expose in (True, False):
        taken, _ = explore(Choice("a", expose, {}, {}), how, CHANNELS, 0.9)
        assert taken[:2] == ("c", expose)


def test_the_two_draws_of_a_decision_are_independent() -> None:
    places: Counter[tuple[bool, bool]] = Counter()
    for i in range(4000):
        key = ("e", "s", f"u{i}", "c", "r")
        places[draw(*key) < 0.5, draw(*key, "explore") < 0.5] += 1
    assert all(abs(count - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75) for count in places.values())

"""What the monitor does with months: alarms end, changes do not become usual, days that are alike ring no more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitoring.watch.measure_alarms import forget, judge
from monitoring.watch.measures import Measured
from monitoring.watch.state import Stream

BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
GAIN = "outcomes/gain_per_decision"


def live(values: Iterable[float], streams: dict[str, Stream], first: int = 0) -> list[bool]:
    """Days of one measure; whether an alarm stood on each."""
    stood = []
    for day, value in enumerate(values, first):
        judge(streams, [Measured("outcomes", "", "gain_per_decision", value, 0.002, 1_000.0)], at(day))
        stood.append(streams[GAIN].alarm is not None)
    return stood


def at(day: int) -> datetime:
    return BEGAN + timedelta(days=day + 1)


def days(rng: np.random.Generator, number: int, mean: float = 0.08) -> list[float]:
    return list(mean * (1.0 + rng.normal(0.0, 0.03, number)))


@pytest.mark.parametrize("harmed", [5, 40, 200])
def test_an_alarm_stands_as_long_as_its_cause_and_no_longer(harmed: int) -> None:
    rng, streams = np.random.default_rng(harmed), dict[str, Stream]()
    assert not any(live(days(rng, 40), streams))
    stood = live(days(rng, harmed, 0.05), streams, 40)
    assert all(stood[3:]), "harm does not become usual"
    assert streams[GAIN].expected == pytest.approx(0.08, rel=0.05)
    after = live(days(rng, 20), streams, 40 + harmed)
    assert not any(after[8:]) and after == sorted(after, reverse=True), "it ends once"
    assert len(streams[GAIN].past) <= 60


def test_one_bad_day_wakes_nobody() -> None:
    rng, streams = np.random.default_rng(1), dict[str, Stream]()
    live(days(rng, 40), streams)
    assert not any(live([0.0], streams, 40))


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_days_that_are_alike_their_neighbours_ring_seldom(alike: float) -> None:
    """Without a wider forecast, days with a correlation of .5 rang each fourth month."""
    rng, rung, years = np.random.default_rng(2), 0, 12
    for _ in range(years):
        noise, value = rng.normal(0.0, 0.05, 365), 0.0
        made = []
        for each in noise:
            value = alike * value + each * (1.0 - alike**2) ** 0.5
            made.append(0.08 * (1.0 + value))
        stood = live(made, {})
        rung += sum(now and not before for before, now in zip([False, *stood], stood, strict=False))
    assert rung <= years * (0.4 if not alike else 1.0)


def test_another_policy_of_the_incumbent_is_learnt_anew() -> None:
    streams = {"decisions/incumbent/expected_gain": Stream(value=1.0), GAIN: Stream(value=2.0)}
    forget(streams, "decisions", "incumbent")
    assert streams.keys() == {GAIN}

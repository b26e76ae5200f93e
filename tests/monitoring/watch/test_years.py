"""Simulations of months: alarms last as long as their cause, and noise and weekends rarely cause alarms."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitoring.watch.measure_alarms import judge
from monitoring.watch.measures import Measured
from monitoring.watch.state import Stream

BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
GAIN = "outcomes/gain_per_decision"
OF_GAIN = ("outcomes", "", "gain_per_decision")
OTHERS = (("outcomes", "", "gain_per_cost"), ("outcomes", "", "cost_per_exposure"))


def live(values: Iterable[float], streams: dict[str, Stream], first: int = 0) -> list[bool]:
    stood = []
    for day, value in enumerate(values, first):
        judge(streams, [Measured(*OF_GAIN, value, 0.002, 1_000.0)], at(day))
        stood.append(streams[GAIN].alarm is not None)
    return stood


def at(day: int) -> datetime:
    return BEGAN + timedelta(days=day + 1)


def days(rng: np.random.Generator, number: int, mean: float = 0.08) -> list[float]:
    return list(mean * (1.0 + rng.normal(0.0, 0.03, number)))


@pytest.mark.parametrize("harmed", [5, 40, 200])
def test_an_alarm_lasts_as_long_as_its_cause(harmed: int) -> None:
    rng, streams = np.random.default_rng(harmed), dict[str, Stream]()
    assert not any(live(days(rng, 40), streams))
    stood = live(days(rng, harmed, 0.05), streams, 40)
    assert all(stood[3:]), "harm must not become normal"
    assert streams[GAIN].expected == pytest.approx(0.08, rel=0.05)
    after = live(days(rng, 20), streams, 40 + harmed)
    assert not any(after[8:]) and after == sorted(after, reverse=True), "the alarm ends once"
    assert len(streams[GAIN].past) <= 60


def test_one_bad_day_does_not_page() -> None:
    rng, streams = np.random.default_rng(1), dict[str, Stream]()
    live(days(rng, 40), streams)
    assert not any(live([0.0], streams, 40))


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_correlated_days_rarely_alarm(alike: float) -> None:
    """There is at most one false alarm a year."""
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


def week(rng: np.random.Generator, day: int, se: float) -> tuple[float, float]:
    """Return a day's gain per decision and its standard error; weekends have a quarter less."""
    usual = 0.08 * (0.75 if day % 7 >= 5 else 1.0) * np.exp(rng.normal(0.0, 0.02))
    return usual + 0.08 * se * rng.normal(), 0.08 * se


def days_until_harm(rng: np.random.Generator, healthy: int, se: float, hours: int = 24) -> int | None:
    """Return the days from a 20 % loss to the first alarm, or None if no alarm fires within six days."""
    streams: dict[str, Stream] = {}
    for day in range(healthy + 6):
        value, error = week(rng, day, se)
        value *= 0.8 if day >= healthy else 1.0
        price = 0.3 * np.exp(rng.normal(0.0, 0.02))
        rows = [
            Measured(*OF_GAIN, value, error, 1_000.0),
            Measured(*OTHERS[0], value / price, error / price, 1_000.0),
            Measured(*OTHERS[1], price, 0.003, 1_000.0),
        ]
        judge(streams, rows, MONDAY + timedelta(days=day + 1), timedelta(hours=hours))
        if any(stream.alarm for stream in streams.values()):
            assert day >= healthy, "false alarm"
            return day - healthy + 1
    return None


@pytest.mark.parametrize(("healthy", "se", "share"), [(14, 0.026, 0.9), (14, 0.06, 0.3), (35, 0.06, 0.7)])
def test_a_lasting_loss_of_a_fifth_is_found_despite_weekends(healthy: int, se: float, share: float) -> None:
    """The standard errors `se` are those of 10,000 and of 2,000 users a day."""
    rng = np.random.default_rng(healthy)
    found = [days_until_harm(rng, healthy, se) is not None for _ in range(30)]
    assert np.mean(found) >= share


def test_periods_other_than_days_have_no_weekday() -> None:
    rng = np.random.default_rng(1)
    assert not any(days_until_harm(rng, 14, 0.026, hours=12) for _ in range(10))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_weekends_rarely_alarm(missing: float) -> None:
    rng, rung, years = np.random.default_rng(3), 0, 12
    for _ in range(years):
        streams: dict[str, Stream] = {}
        stood = False
        for day in range(365):
            if rng.random() < missing:
                continue
            value, se = week(rng, day, 0.026)
            judge(streams, [Measured(*OF_GAIN, value, se, 1_000.0)], MONDAY + timedelta(days=day + 1))
            stands = streams[GAIN].alarm is not None
            rung += stands and not stood
            stood = stands
    assert rung <= years * 0.4


def test_the_weekday_of_a_day_is_that_of_its_start() -> None:
    """In any time zone, a period that ends at midnight on Monday counts as a Sunday."""
    streams, rng = dict[str, Stream](), np.random.default_rng(4)
    east = datetime.fromisoformat("2026-01-05T09:00:00+09:00")
    for day in range(28):
        judge(streams, [Measured(*OF_GAIN, *week(rng, day, 0.01), 1_000.0)], east + timedelta(days=day + 1))
    expected = []
    for day in range(28, 35):
        judge(streams, [Measured(*OF_GAIN, *week(rng, day, 0.01), 1_000.0)], MONDAY + timedelta(days=day + 1))
        expected.append(streams[GAIN].expected)
    assert expected == pytest.approx([0.08] * 5 + [0.06] * 2, rel=0.03)

"""Tests of the alarms on invented values of measures and columns."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitoring.watch import column_alarms, measure_alarms
from monitoring.watch.columns import ColumnDrift, DriftResult
from monitoring.watch.measures import Measured
from monitoring.watch.retrain import COOL_DOWN, update_request
from monitoring.watch.state import Alarm, State, Stream
from monitoring.watch.stream_names import HARM, loss_units, stream_of
from mtorl.log.dataset import DatasetSpec

START = datetime(2026, 1, 5, tzinfo=UTC)
GAIN, COST = ("outcomes", "", "gain_per_decision"), ("outcomes", "", "cost_per_exposure")
OTHER = ("journeys", "", "history_length")


def at(day: int) -> datetime:
    return START + timedelta(days=day)


def measured(name: tuple[str, str, str], value: float, se: float = 0.001, size: float = 1_000.0) -> Measured:
    return Measured(*name, value, se, size)


def test_only_the_harmful_direction_is_harm() -> None:
    rng = np.random.default_rng(1)
    for name, factor, kind in (
        (GAIN, 0.7, "harm"),
        (GAIN, 1.3, None),
        (COST, 1.3, "harm"),
        (COST, 0.7, None),
        (OTHER, 0.7, "drift"),
        (OTHER, 1.3, "drift"),
    ):
        streams: dict[str, Stream] = {}
        for day in range(20):
            value = 0.1 * (1 + 0.01 * rng.normal()) * (factor if day >= 16 else 1.0)
            measure_alarms.judge(streams, [measured(name, value)], at(day))
        stream = streams[stream_of(*name)]
        assert (stream.alarm.kind if stream.alarm else None) == kind, (name, factor)
        assert (stream.loss is not None) == (name != OTHER)
        if kind == "harm":
            assert stream.loss == pytest.approx(0.03 * 1_000, rel=0.1)
        elif stream.loss is not None:
            assert stream.loss == 0.0


def test_since_is_the_beginning_of_the_first_unusual_period() -> None:
    for length in (timedelta(hours=6), timedelta(days=1), timedelta(days=7)):
        streams: dict[str, Stream] = {}
        for number in range(1, 20):
            value = 0.092 if number == 12 else 0.07 if number >= 15 else 0.1 + 0.001 * (number % 2)
            measure_alarms.judge(streams, [measured(GAIN, value)], START + number * length, length)
        stream = streams[stream_of(*GAIN)]
        unusual = [period.end for period in stream.past if period.evident]
        assert unusual[0] == START + 12 * length
        assert stream.alarm and stream.alarm.since == START + 14 * length, "a single bad period does not count"


def test_a_loss_is_reported_with_its_unit() -> None:
    units = loss_units(DatasetSpec.load("simulator"))
    assert units.keys() == HARM.keys()
    streams: dict[str, Stream] = {}
    for number in range(16):
        worse = 0.5 if number >= 12 else 1.0
        both = [measured(GAIN, 0.1 * worse), measured(COST, 0.1 / worse), measured(OTHER, 0.1)]
        measure_alarms.judge(streams, both, at(number), loss_units=units)
    gain, cost = streams[stream_of(*GAIN)], streams[stream_of(*COST)]
    assert (gain.loss_unit, cost.loss_unit, streams[stream_of(*OTHER)].loss_unit) == ("clicks", "EUR", "")
    assert gain.alarm and "; 50 clicks" in gain.alarm.text and cost.alarm and "; 100 EUR" in cost.alarm.text


def test_missing_measures_do_not_raise_alarms_of_others() -> None:
    streams: dict[str, Stream] = {}
    names = [("journeys", "", f"m{i}") for i in range(8)]
    for day in range(12):
        measure_alarms.judge(streams, [measured(name, 0.1) for name in names], at(day))
    first = streams["journeys/m0"]
    first.evidence = first.needed / 4
    assert first.needed == 8_000
    measure_alarms.judge(streams, [measured(names[0], 0.1)], at(12))
    assert streams["journeys/m0"].alarm is None and streams["journeys/m0"].needed == 8_000
    assert streams["journeys/m1"].evidence > 0.0 and len(streams["journeys/m1"].past) == 12


@pytest.mark.parametrize(
    ("incumbent", "challenger", "causes"),
    [(0.1, 0.04, ["spring/challenger"]), (0.07, 0.07, []), (0.07, 0.04, []), (0.1, 0.1, [])],
)
def test_a_challenger_causes_harm_if_the_incumbent_is_as_usual(
    incumbent: float, challenger: float, causes: list[str]
) -> None:
    rng, streams = np.random.default_rng(2), dict[str, Stream]()
    for day in range(20):
        usual = 0.1 * (1 + 0.01 * rng.normal())
        arms = {"incumbent": usual, "spring/challenger": usual}
        if day >= 16:
            arms = {"incumbent": incumbent, "spring/challenger": challenger}
        by_arm = [measured(("outcomes", arm, "gain_per_decision"), value) for arm, value in arms.items()]
        whole = 0.07 if day >= 16 else usual
        measure_alarms.judge(streams, [measured(GAIN, whole)], at(day), by_arm=by_arm)
    alarm = streams["outcomes/gain_per_decision"].alarm
    assert alarm is not None and alarm.kind == "harm" and alarm.arms == causes
    measure_alarms.judge(streams, [measured(GAIN, 0.1)], at(20))
    alarm = streams["outcomes/gain_per_decision"].alarm
    assert alarm is not None and alarm.arms == causes, "a normal day does not change the cause"


def test_an_incumbent_of_few_users_is_as_usual_within_its_own_error() -> None:
    rng, streams = np.random.default_rng(2), dict[str, Stream]()
    for day in range(16):
        measure_alarms.judge(streams, [measured(GAIN, 0.1 * (1 + 0.02 * rng.normal()), 0.002)], at(day))
    arms = (("incumbent", 0.09, 0.006), ("spring/challenger", 0.05, 0.002))
    by_arm = [measured(("outcomes", arm, "gain_per_decision"), value, se) for arm, value, se in arms]
    for day in range(16, 20):
        measure_alarms.judge(streams, [measured(GAIN, 0.055, 0.002)], at(day), by_arm=by_arm)
    alarm = streams["outcomes/gain_per_decision"].alarm
    assert alarm is not None and alarm.arms == ["spring/challenger"]


def test_streams_without_data_for_a_week_are_forgotten() -> None:
    streams: dict[str, Stream] = {"context/device": Stream()}
    arm = ("performance", "spring/challenger", "auc")
    for day in range(12):
        measure_alarms.judge(streams, [measured(GAIN, 0.1), measured(arm, 0.7)], at(day))
    streams["performance/spring/challenger/auc"].alarm = Alarm(kind="drift", since=at(11), text="it is lower")
    for day in range(12, 19):
        assert "performance/spring/challenger/auc" in streams
        measure_alarms.judge(streams, [measured(GAIN, 0.1)], at(day))
    assert streams.keys() == {"outcomes/gain_per_decision", "context/device"}


def column(name: str, score: float | None, problem: str | None = None, threshold: float = 0.1) -> ColumnDrift:
    if score is not None:
        problem = "drift" if score >= threshold else None
    return ColumnDrift(name, "numeric", "wasserstein", score, threshold, 0.0, 0.0, problem, "a message")


def result(*columns: ColumnDrift) -> DriftResult:
    return DriftResult(500, 300, columns, None)


def columns_alarm(state: State, day: int, *columns: ColumnDrift, version: str = "1") -> set[str]:
    column_alarms.judge(state, result(*columns), at(day), version)
    return {name for name, stream in state.streams.items() if stream.alarm}


def test_two_periods_above_the_threshold_alarm_and_one_below_ends_it() -> None:
    state = State()
    for day in range(8):
        assert not columns_alarm(state, day, column("a", 0.02), column("b", 0.02))
    assert not columns_alarm(state, 8, column("a", 0.3), column("b", 0.02))
    assert columns_alarm(state, 9, column("a", 0.3), column("b", 0.02)) == {"context/a"}
    assert state.streams["context/a"].alarm and state.streams["context/a"].alarm.since == at(7), "the first period"
    for day in (10, 11, 12):
        ended = columns_alarm(state, day, column("a", 0.02), column("b", 0.02))
    assert not ended


def test_a_weekly_pattern_is_no_alarm() -> None:
    state = State()
    for day in range(28):
        assert not columns_alarm(state, day, column("a", 0.2 if day % 7 in (5, 6) else 0.02)), day
    # Sundays are usually shifted by 0.2, so 0.5 is still an alarm.
    assert not columns_alarm(state, 33, column("a", 0.5))
    assert columns_alarm(state, 34, column("a", 0.5)) == {"context/a"}


def test_a_large_weekly_shift_alarms_until_it_is_known() -> None:
    state, rung = State(), []
    for day in range(70):
        rung.append(bool(columns_alarm(state, day, column("a", 0.6 if day % 7 in (5, 6) else 0.02))))
    assert any(rung[:14]) and not any(rung[28:])


@pytest.mark.parametrize(
    ("score", "alarms"),
    [
        # A day without values is no drift; another check finds missing values.
        (lambda day: None, [False] * 14),
        (lambda day: 0.3 if day % 9 == 8 else 0.02, [False] * 60),
        # A single weekday always differs a little from a sample of whole weeks.
        (lambda day: 0.12, [False] * 28),
        (lambda day: 0.4, [False] * 2 + [True] * 58),
        (lambda day: 0.3 if day >= 8 else 0.02, [False] * 9 + [True] * 59),
        (lambda day: 0.3 if day >= 28 else 0.02, [False] * 29 + [True] * 59),
        (lambda day: 1.0 if day == 20 else 0.9 if day >= 28 else 0.02, [False] * 29 + [True] * 31),
    ],
    ids=[
        "broken",
        "now-and-then",
        "a-little-off",
        "wrong-from-the-first-day",
        "in-the-second-week",
        "later",
        "after-a-festival",
    ],
)
def test_only_a_lasting_shift_is_an_alarm(score: Callable[[int], float | None], alarms: list[bool]) -> None:
    """An alarm must not flap. A shift on only two Mondays is no weekly pattern yet."""
    state = State()
    days = (column("a", score(day), "no_values") for day in range(len(alarms)))
    assert [bool(columns_alarm(state, day, of_day)) for day, of_day in enumerate(days)] == alarms


def test_another_model_resets_the_columns() -> None:
    state = State()
    for day in range(10):
        columns_alarm(state, day, column("a", 0.3), column("gone", 0.02))
    assert not columns_alarm(state, 10, column("a", 0.3), version="2")
    assert state.model_version == "2" and state.streams.keys() == {"context/a"}
    assert len(state.streams["context/a"].past) == 1


def test_a_retraining_request_needs_drift_and_waits_after_one() -> None:
    state = State(model_version="1")
    state.broken = {"hour": Alarm(kind="data_quality", since=at(1), text="no values")}
    state.streams["outcomes/gain_per_cost"] = Stream(alarm=Alarm(kind="harm", since=at(1), text="x"))
    state.streams["journeys/history_length"] = Stream(alarm=Alarm(kind="drift", since=at(1), text="longer"))
    update_request(state, at(0))
    assert state.retrain is None
    state.streams["context/device"] = Stream(alarm=Alarm(kind="drift", since=at(1), text="moved"))
    state.streams["performance/incumbent/calibration"] = Stream(alarm=Alarm(kind="drift", since=at(1), text="y"))
    update_request(state, at(1))
    assert state.retrain is not None and state.retrain.reason == "moved; y"
    update_request(state, at(2))
    assert state.retrain.since == at(1)
    state.model_version = "2"
    update_request(state, at(3))
    assert state.retrain is None, "another model serves; a new request would be too soon"
    update_request(state, at(1) + COOL_DOWN)
    assert state.retrain is not None and state.retrain.model_version == "2"

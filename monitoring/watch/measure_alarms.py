"""Compares the measures of a period with earlier periods, and raises alarms about harm and other changes.

A stream is the time series of one measure. Streams in `HARM` raise alarms only for harmful changes. All other streams
raise alarms for changes in both directions.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from scipy.special import ndtr, stdtrit

from monitoring.watch.measures import Measured
from monitoring.watch.state import Alarm, PastPeriod, Stream
from monitoring.watch.stream_names import COLUMNS, HARM, labels_of
from mtorl.drift.evidence import add, alarming, e_of_p, needed
from mtorl.drift.past_periods import FEWEST, MOST, Forecast
from mtorl.experiment.arm import INCUMBENT

# Forecasts ignore this many newest periods, because a change takes two periods to detect.
WAIT = 2
GONE = 7
"""Number of periods without a value after which a stream and its alarm are removed. Its experiment has then ended, or
the new policy does not log the value."""
DAY = timedelta(days=1)
# Smallest assumed standard deviation between periods, for measures between 0 and 1.
SMALLEST_SHARE = 0.005


# A smaller p-value is unusual. If an alarm follows, its period does not count as healthy.
UNUSUAL = 0.05
ENDS = 0.25
"""An alarm ends when the evidence falls below this share of the evidence that a single stream needs to raise an alarm.
With a larger share, the alarm would soon start again."""
SMALLEST_P = 2e-4
"""Smaller p-values are raised to this value, because four weeks of data do not show what happens on one day in a
thousand. With this limit, a single day never raises an alarm."""


NO_UNITS: Mapping[str, str] = MappingProxyType({})


def judge(
    streams: dict[str, Stream],
    measured: Sequence[Measured],
    end: datetime,
    length: timedelta = DAY,
    loss_units: Mapping[str, str] = NO_UNITS,
    by_arm: Sequence[Measured] = (),
) -> int:
    """Compare the measures of a period with forecasts, update the evidence, and raise or end alarms.

    Args:
        streams: Streams by name. A stream is added for each new measure.
        length: Length of the period. If it is a day, forecasts take the weekday into account.
        by_arm: Measures of outcomes, computed separately for the incumbent and each challenger.

    Returns:
        The number of measures with enough past periods for a forecast.
    """
    p_values: dict[str, float] = {}
    causes: dict[str, list[str]] = {}
    for each in measured:
        stream = streams.setdefault(each.stream, Stream())
        forecast = _forecast(stream, each, end, length)
        stream.value, stream.expected, stream.low, stream.high, stream.loss = each.value, None, None, None, None
        if forecast is not None:
            reach = float(stdtrit(forecast.degrees, 0.975)) * forecast.sd
            stream.expected, stream.low, stream.high = forecast.mean, forecast.mean - reach, forecast.mean + reach
            p = p_values[each.stream] = _p(each, forecast)
            if each.stream in HARM and each.size:
                worse = forecast.mean - each.value if HARM[each.stream] == "falls" else each.value - forecast.mean
                stream.loss = max(0.0, worse) * each.size
                stream.loss_unit = loss_units.get(each.stream, "")
                if p < UNUSUAL:
                    causes[each.stream] = _causes(each, by_arm, stream, end, length)
    kinds: tuple[Literal["harm", "drift"], ...] = ("harm", "drift")
    for kind in kinds:
        _find(streams, kind, p_values, end, length, causes)
    for each in measured:
        stream = streams[each.stream]
        unusual = p_values.get(each.stream, 1.0) < UNUSUAL
        stream.add(PastPeriod(end=end, value=each.value, se=each.se, evident=unusual), keep=MOST + WAIT)
    _forget_gone(streams, {each.stream for each in measured})
    return len(p_values)


def _forecast(stream: Stream, new: Measured, end: datetime, length: timedelta) -> Forecast | None:
    healthy = [period for period in stream.past if not period.alarmed]
    if len(healthy) < FEWEST + WAIT:
        return None
    past = healthy[:-WAIT]
    # Periods begin at midnight UTC, so use the weekdays in UTC.
    ends = (*(period.end for period in past), end)
    weekdays = [(each.astimezone(UTC) - DAY).weekday() for each in ends] if length == DAY else None
    smallest = SMALLEST_SHARE if new.measure.endswith("_ratio") or new.measure.endswith("auc") else 0.0
    return Forecast.of([(period.value, period.se) for period in past], new.se, smallest, weekdays)


def _p(new: Measured, forecast: Forecast) -> float:
    match HARM.get(new.stream):
        case "falls":
            return forecast.p_below(new.value)
        case "rises":
            return forecast.p_above(new.value)
        case None:
            return forecast.p_apart(new.value)


def _causes(whole: Measured, by_arm: Sequence[Measured], stream: Stream, end: datetime, length: timedelta) -> list[str]:
    """Return the challengers that cause the harm, because they are worse than the incumbent.

    The list is empty if the incumbent is unusually bad too.
    """
    arms = {each.arm: each for each in by_arm if each.measure == whole.measure}
    incumbent = arms.pop(INCUMBENT, None)
    if incumbent is None:
        return []
    alone = incumbent._replace(arm=whole.arm)
    # The incumbent has fewer users than all arms, so its forecast needs a wider interval.
    forecast = _forecast(stream, alone, end, length)
    if forecast is None or _p(alone, forecast) < UNUSUAL:
        return []
    sign = 1.0 if HARM[whole.stream] == "falls" else -1.0
    apart = {
        arm: sign * (incumbent.value - its.value) / max(math.hypot(its.se, incumbent.se), 1e-300)
        for arm, its in arms.items()
    }
    return sorted(arm for arm, errors in apart.items() if ndtr(-errors) < UNUSUAL)


def _find(
    streams: dict[str, Stream],
    kind: Literal["harm", "drift"],
    p_values: Mapping[str, float],
    end: datetime,
    length: timedelta,
    causes: Mapping[str, list[str]],
) -> None:
    """Add evidence to all streams of one kind, and raise or end their alarms."""
    p_values = {name: p for name, p in p_values.items() if (name in HARM) == (kind == "harm")}
    had = {
        name: stream.evidence
        for name, stream in streams.items()
        if _is_measure(name) and (name in HARM) == (kind == "harm") and (stream.evidence > 0.0 or name in p_values)
    }
    evidence = add(had, {name: e_of_p(max(p, SMALLEST_P)) for name, p in p_values.items()}, len(had))
    found = alarming(evidence, len(had))
    for name in p_values:
        stream = streams[name]
        stream.evidence, stream.needed = evidence[name], needed(len(had))
        stands = stream.alarm is not None and stream.evidence >= ENDS * stream.needed
        if name not in found and not stands:
            stream.alarm = None
        else:
            since = stream.alarm.since if stream.alarm else stream.unusual_since(end, length)
            arms = causes.get(name, stream.alarm.arms if stream.alarm else [])
            text = "; ".join([describe(name, stream), *(f"{arm} is the cause" for arm in arms)])
            stream.alarm = Alarm(kind=kind, since=since, text=text, arms=arms)


def forget(streams: dict[str, Stream], group: str, arm: str) -> None:
    """Remove an arm's streams in one group, because another policy now decides for the arm."""
    for name in [name for name in streams if labels_of(name)[:3] == (group, "", arm)]:
        del streams[name]


def _is_measure(stream: str) -> bool:
    return labels_of(stream).group != COLUMNS


def _forget_gone(streams: dict[str, Stream], measured: set[str]) -> None:
    ends = sorted({period.end for name in measured for period in streams[name].past})[-GONE:]
    for name in [name for name in streams if _is_measure(name) and name not in measured]:
        past = streams[name].past
        if not past or (len(ends) == GONE and past[-1].end < ends[0]):
            del streams[name]


def describe(name: str, stream: Stream) -> str:
    """Describe a measure's value, its expected value, and the lost gain or money."""
    assert stream.value is not None and stream.expected is not None
    text = f"{name.rpartition('/')[2]} is {stream.value:.4g}, expected {stream.expected:.4g}"
    if stream.low is not None and stream.high is not None:
        text += f" ({stream.low:.4g} to {stream.high:.4g})"
    if stream.expected:
        text += f": {(stream.value - stream.expected) / abs(stream.expected):+.1%}"
    if stream.loss:
        text += f"; {' '.join(filter(None, (f'{stream.loss:,.4g}', stream.loss_unit)))} lost in the newest period"
    return text

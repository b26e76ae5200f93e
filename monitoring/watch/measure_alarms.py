"""Compares the measures of a period with earlier periods, and raises alarms about harm and other changes.

    judge(state.streams, counted.measured, end)

A stream is the time series of one measure. Streams in which a change may be harm (`HARM`) raise alarms only in the
harmful direction, all others in both directions. These two families have separate error rates: in each of them, a false
alarm occurs once in `MEAN_RUN` periods on average, or less often (`mtorl.drift.evidence`).
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

# Forecasts ignore this many periods, the newest ones: they may contain a change that takes two periods to detect.
WAIT = 2
GONE = 7
"""Periods without a value after which a stream is removed, with its alarm: its experiment is over, or the new policy
does not log the value."""
DAY = timedelta(days=1)
# Assumed minimum of the standard deviation between periods, for measures between 0 and 1.
SMALLEST_SHARE = 0.005


# A period with a smaller p-value counts as unusual. If an alarm follows, the period does not count as healthy.
UNUSUAL = 0.05
ENDS = 0.25
"""An alarm ends below this share of the evidence that a single stream needs; with a larger share it would recur."""
SMALLEST_P = 2e-4
"""Smaller p-values count as this one, since four weeks do not show what happens once in a thousand days. So a single
day never raises an alarm."""


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
        streams: Streams of measures, by name. A new measure adds a stream.
        length: Length of the period. If it is a day, forecasts take the weekday into account.
        loss_units: Unit of the loss by stream, from `monitoring.watch.stream_names.loss_units`.
        by_arm: Measures of outcomes, separately for the incumbent and each challenger.

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
    # Weekdays are those of UTC, because periods are days in UTC.
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
    """Return the challengers that are worse than the incumbent, if they explain the harm.

    They explain it only if the incumbent's own outcomes are as forecast. Otherwise the list is empty.
    """
    arms = {each.arm: each for each in by_arm if each.measure == whole.measure}
    incumbent = arms.pop(INCUMBENT, None)
    if incumbent is None:
        return []
    alone = incumbent._replace(arm=whole.arm)
    # A single arm has fewer users than all arms together, so its forecast has a wider interval.
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
    """Add evidence to the streams of one family, and raise or end their alarms.

    With more streams, a single stream needs more evidence for an alarm. All streams that were ever judged are counted,
    not only those with a value today. Otherwise, old evidence could raise an alarm on a day on which most values are
    missing.
    """
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
    """Remove the streams of an arm over all experiments, because another policy now decides for this arm."""
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
    """Describe a measure in words: its value, the expected value, and how much was lost."""
    assert stream.value is not None and stream.expected is not None
    text = f"{name.rpartition('/')[2]} is {stream.value:.4g}, expected {stream.expected:.4g}"
    if stream.low is not None and stream.high is not None:
        text += f" ({stream.low:.4g} to {stream.high:.4g})"
    if stream.expected:
        text += f": {(stream.value - stream.expected) / abs(stream.expected):+.1%}"
    if stream.loss:
        text += f"; {' '.join(filter(None, (f'{stream.loss:,.4g}', stream.loss_unit)))} lost in the newest period"
    return text

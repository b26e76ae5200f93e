"""Finds columns that have moved away from the training sample, with a known rate of false alarms.

In a healthy period, the probability that any column is above its threshold is at most `ALPHA`, if thresholds were
measured exactly; evidence assumes twice that. Two such periods in a row are sufficient evidence. e-BH on the evidence
of the last two periods, at a false discovery rate of 10 %, selects the columns that have moved.

**Seasons.** The training sample consists of whole weeks. If every Sunday differs from it, a column above its threshold
is evidence only if it is also well above its values in the healthy periods of the last weeks, and above those at this
time of the week. In the first week, it must be far above its threshold. The price is that a column that differs
slightly from the training sample on each day, from the first week on, counts as a season.
"""

import math
from datetime import datetime, timedelta

from monitoring.watch.columns import ColumnDrift, DriftResult
from monitoring.watch.state import Alarm, PastPeriod, State, Stream
from monitoring.watch.stream_names import COLUMNS, column_stream, labels_of
from mtorl.drift.drift_tests import words_of
from mtorl.drift.evidence import add, alarming, e_of_event
from mtorl.drift.thresholds import ALPHA

LOOKED = 2  # periods whose evidence selects the columns that have moved
FALSE_DISCOVERIES = 0.1
SEASON = 1.25  # multiple of the largest score of healthy periods that a season explains
FAR = 3.0  # multiple of the threshold that a column must exceed in the first week
UNDECIDED = 3  # newest periods that may still lead to an alarm: those with evidence do not count as healthy
KEPT = 28  # periods
_ANY = "any column"
_WEEK = timedelta(days=7)


def judge(
    state: State, result: DriftResult, end: datetime, model_version: str, length: timedelta = timedelta(days=1)
) -> None:
    """Add a checked period to the evidence; the training sample of another model resets the evidence."""
    if model_version != state.model_version:
        forget(state)
        state.model_version = model_version
    for column in result.columns:
        stream = state.streams.setdefault(column_stream(column.column), Stream())
        stream.value, stream.expected = column.score, column.threshold
    exceeded = {column.column: _exceeded(state, column, end) for column in result.columns}
    grown = add({_ANY: state.columns_evidence}, {_ANY: e_of_event(any(exceeded.values()), 2 * ALPHA)}, streams=1)
    state.columns_evidence = grown[_ANY]
    moved = _moved(state, exceeded) if alarming(grown, streams=1) else set()
    for column in result.columns:
        stream = state.streams[column_stream(column.column)]
        stream.evidence, stream.needed = _of_two(stream, exceeded[column.column]), len(exceeded) / FALSE_DISCOVERIES
        if column.column in moved:
            since = stream.alarm.since if stream.alarm else stream.unusual_since(end, length)
            text = f"{column.column} {words_of('drift').summary}: {column.message}"
            stream.alarm = Alarm(kind="drift", since=since, text=text)
        else:
            stream.alarm = None
        score, above = column.score or 0.0, exceeded[column.column]
        stream.add(PastPeriod(end=end, value=score, evident=above), keep=KEPT)


def forget(state: State) -> None:
    """Reset the evidence, which is about another training sample."""
    state.columns_evidence = 0.0
    for name in [name for name in state.streams if labels_of(name).group == COLUMNS]:
        del state.streams[name]


def _exceeded(state: State, column: ColumnDrift, end: datetime) -> bool:
    if column.problem is None or words_of(column.problem).kind != "drift":
        return False
    assert column.score is not None and column.threshold is not None
    return column.score >= _season(state.streams[column_stream(column.column)].past, end, column.threshold)


def _season(past: list[PastPeriod], end: datetime, threshold: float) -> float:
    """The least score that a season does not explain.

    Neither a single festival nor a slow shift may hide a lasting shift. So scores at other times of the week count as
    at most `FAR` times the threshold.
    """
    if not past or end - past[0].end < _WEEK:
        return FAR * threshold
    decided = [*past[:-UNDECIDED], *(period for period in past[-UNDECIDED:] if not period.evident)]
    healthy = max((period.value for period in decided if not period.alarmed), default=0.0)
    return SEASON * max(min(healthy, FAR * threshold), _at_this_time(past, end, threshold))


def _at_this_time(past: list[PastPeriod], end: datetime, threshold: float) -> float:
    """The column's earlier score at this time of the week, if the last week was mostly healthy; otherwise 0."""
    week = [period.value < threshold for period in past if end - period.end < _WEEK]
    if sum(week) < len(week) / 2:
        return 0.0
    same = sorted(period.value for period in past if (end - period.end) % _WEEK == timedelta(0))
    return same[-2] if len(same) >= 2 else 0.0  # the second largest, since a single high score may be a festival


def _of_two(stream: Stream, exceeded: bool) -> float:
    """Evidence (an e-value) that a column has drifted, from the two newest periods."""
    before = [period.evident for period in stream.past[-(LOOKED - 1) :]]
    return math.prod(e_of_event(above, 2 * ALPHA) for above in (*before, exceeded))


def _moved(state: State, exceeded: dict[str, bool]) -> set[str]:
    evidence = {name: _of_two(state.streams[column_stream(name)], above) for name, above in exceeded.items()}
    named = alarming(evidence, len(evidence), mean_run=1 / FALSE_DISCOVERIES)
    standing = {name for name in evidence if state.streams[column_stream(name)].alarm is not None}
    return set(named) or {name for name, above in exceeded.items() if above} or standing

"""Finds columns whose distribution has moved away from the training sample, with a known rate of false alarms.

In a healthy period, the probability that any column exceeds its threshold is at most `ALPHA`. The evidence assumes
twice that, because thresholds are estimates. If a column exceeds its threshold in two periods in a row, an alarm is
raised. The procedure e-BH then selects the columns that have moved, at a false discovery rate of 10 %.

**Seasons.** The training sample covers whole weeks, so every Sunday may differ from it. So a score above the threshold
is evidence only if it is also well above the column's healthy scores of the last weeks, and above earlier scores at
this time of the week. In the first week, it must be far above the threshold instead. The price: a column that differs
slightly from the training sample on every day, from the first week on, raises no alarm.
"""

import math
from datetime import datetime, timedelta

from monitoring.watch.columns import ColumnDrift, DriftResult
from monitoring.watch.state import Alarm, PastPeriod, State, Stream
from monitoring.watch.stream_names import COLUMNS, column_stream, labels_of
from mtorl.drift.drift_tests import words_of
from mtorl.drift.evidence import add, alarming, e_of_event
from mtorl.drift.thresholds import ALPHA

# Number of newest periods whose evidence selects the moved columns.
LOOKED = 2
FALSE_DISCOVERIES = 0.1
# A score up to this multiple of the largest healthy score counts as seasonal.
SEASON = 1.25
# In the first week, only scores above this multiple of the threshold are evidence.
FAR = 3.0
# In this many newest periods, unusual scores do not count as healthy, because they may still lead to an alarm.
UNDECIDED = 3
# Number of stored scores, separately for healthy and other periods.
KEPT = 28
_ANY = "any column"
_WEEK = timedelta(days=7)


def judge(
    state: State, result: DriftResult, end: datetime, model_version: str, length: timedelta = timedelta(days=1)
) -> None:
    """Add the scores of a period to the evidence, and raise or end alarms on columns.

    A new model deletes all earlier evidence, because the scores compare with its training sample.
    """
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
    """Delete all evidence about columns, which refers to the training sample of a previous model."""
    state.columns_evidence = 0.0
    for name in [name for name in state.streams if labels_of(name).group == COLUMNS]:
        del state.streams[name]


def _exceeded(state: State, column: ColumnDrift, end: datetime) -> bool:
    if column.problem is None or words_of(column.problem).kind != "drift":
        return False
    assert column.score is not None and column.threshold is not None
    return column.score >= _season(state.streams[column_stream(column.column)].past, end, column.threshold)


def _season(past: list[PastPeriod], end: datetime, threshold: float) -> float:
    """Return the smallest score that is evidence of drift and that a season does not explain.

    The limit `FAR` prevents that the high scores of one festival hide a lasting change.
    """
    if not past or end - past[0].end < _WEEK:
        return FAR * threshold
    decided = [*past[:-UNDECIDED], *(period for period in past[-UNDECIDED:] if not period.evident)]
    healthy = max((period.value for period in decided if not period.alarmed), default=0.0)
    return SEASON * max(min(healthy, FAR * threshold), _at_this_time(past, end, threshold))


def _at_this_time(past: list[PastPeriod], end: datetime, threshold: float) -> float:
    """Return the second largest earlier score at this time of the week; 0 if there are fewer than two."""
    week = [period.value < threshold for period in past if end - period.end < _WEEK]
    if sum(week) < len(week) / 2:
        return 0.0
    same = sorted(period.value for period in past if (end - period.end) % _WEEK == timedelta(0))
    # The largest score may come from a single festival.
    return same[-2] if len(same) >= 2 else 0.0


def _of_two(stream: Stream, exceeded: bool) -> float:
    """Return an e-value of a column's drift from the two newest periods."""
    before = [period.evident for period in stream.past[-(LOOKED - 1) :]]
    return math.prod(e_of_event(above, 2 * ALPHA) for above in (*before, exceeded))


def _moved(state: State, exceeded: dict[str, bool]) -> set[str]:
    evidence = {name: _of_two(state.streams[column_stream(name)], above) for name, above in exceeded.items()}
    named = alarming(evidence, len(evidence), mean_run=1 / FALSE_DISCOVERIES)
    standing = {name for name in evidence if state.streams[column_stream(name)].alarm is not None}
    return set(named) or {name for name, above in exceeded.items() if above} or standing

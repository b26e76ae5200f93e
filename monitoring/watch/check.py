"""Runs one check of the monitor: judges every finished period, and finds columns that have just lost their values.

Periods are judged once, in the order of time. A period whose decisions can't be read is tried again by later checks.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from monitoring import messages
from monitoring.decision_log import DecisionLog, Period
from monitoring.watch import column_alarms, measure_alarms
from monitoring.watch.columns import ColumnDrift, DriftResult, Page, check
from monitoring.watch.measures import MIN_USERS, Counted, measure
from monitoring.watch.retrain import update_request
from monitoring.watch.state import STATE_FILE, Alarm, Group, NotJudged, Reason, State, StateError, alone
from monitoring.watch.stream_names import COLUMNS, GROUPS, LAST_HOURS, OF_OUTCOMES, labels_of, loss_units
from monitoring.watch.training_sample import TrainingSample
from mtorl.artifact.artifact import ArtifactError
from mtorl.drift.drift_tests import words_of
from mtorl.drift.reference import MAX_ROWS
from mtorl.experiment.arm import INCUMBENT
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.touchpoints import LogError

# Time after a period's end until all its records are expected in the lake.
UPLOADED_AFTER = timedelta(hours=1)
# The first check judges at most this many periods.
MOST_PERIODS = 60
_KEPT_PAGES = 14
# Outcomes are incomplete below this fraction of the usual share of exposures with an outcome.
_HEARD = 0.8
# Time after a period's end from which missing outcomes count as lost.
_AWAITED = timedelta(days=2)
# A few users may lack a value by chance, so a broken column must score at least this multiple of its threshold.
_SURE = 2.0
_WEEK = timedelta(days=7)
# A time without decisions is usual after this many such weeks, because a single one may have been an outage.
_OCCASIONS = 2
# Number of earlier weeks that are searched.
_LOOKED_BACK = 4
_MOST_AHEAD = 0.1
"""Largest accepted number of records from the future, as a fraction of a period's decisions. If there are more, a clock
is wrong, so records may be in the wrong period."""


@dataclass(frozen=True)
class Watched:
    """Settings of a check.

    Attributes:
        sample_of: Returns the training sample of the model with the given digest, or of the newest model for None.
        hours: Length of a period, a divisor or a multiple of 24, because periods begin at midnight UTC.
        page: Periods for which Evidently draws a page.
    """

    lake: Lake
    spec: DatasetSpec
    sample_of: Callable[[str | None], TrainingSample | None]
    hours: int = 24
    page: Page = "moved"
    newest_model: Callable[[], datetime | None] = lambda: None


class _NotJudgedError(Exception):
    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.why = NotJudged(reason=reason, text=text)


def run(
    watched: Watched,
    folder: Path,
    now: datetime | None = None,
    on_period: Callable[[datetime, int], None] | None = None,
) -> State:
    """Judge each new finished period, check the columns of the last hours, and write the state.

    Args:
        folder: Folder for the state file, and for the figures and pages of each period.
        on_period: Called before each period with the period's end and the number of periods that remain.

    Raises:
        StateError: The state can't be read.
        BusyError: Another check is running.
        OSError: The disk is full.
    """
    now = now or datetime.now(UTC)
    path = folder / STATE_FILE
    with alone(folder):
        state = State.read(path)
        _check_periods(state, watched, now, path)
        state.hours = watched.hours
        ends = list(_ends(watched, state, now))
        ahead = _records_ahead(watched, now) if ends else 0
        for i, end in enumerate(ends):
            if on_period:
                on_period(end, len(ends) - i)
            if _judge(watched, state, end, folder, ahead, outcomes_may_come=now - end < _AWAITED):
                update_request(state, end)
                state.judged_until = end
                # Save each result, in case the check is killed later.
                state.write(path)
        _look_at_last_hours(watched, state, now, folder)
        state.newest_model = watched.newest_model()
        state.checked = now
        state.write(path)
        for old in sorted((folder / "periods").glob("*"))[:-_KEPT_PAGES]:
            shutil.rmtree(old, ignore_errors=True)
    return state


def folder_of(folder: Path, end: datetime) -> Path:
    """Return the folder for a period's figures and Evidently pages."""
    return folder / "periods" / end.strftime("%Y-%m-%dT%H")


def _ends(watched: Watched, state: State, now: datetime) -> Iterator[datetime]:
    length = timedelta(hours=watched.hours)
    last = _floor(now - UPLOADED_AFTER, watched.hours)
    first = state.judged_until
    if first is None:
        began = _first_decision(watched)
        first = last - length if began is None else _floor(began, watched.hours)
    at = max(first, last - MOST_PERIODS * length) + length
    while at <= last:
        yield at
        at += length


def _floor(at: datetime, hours: int) -> datetime:
    seconds = hours * 3600
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def _first_decision(watched: Watched) -> datetime | None:
    with suppress(_NotJudgedError), _reading():
        return DecisionLog.of(watched.lake).first_time()
    return None


def _records_ahead(watched: Watched, now: datetime) -> int:
    ahead = Period(since=max(now, datetime.now(UTC)) + UPLOADED_AFTER)
    # Each period reports an unreadable log later.
    with suppress(_NotJudgedError), _reading():
        return DecisionLog.of(watched.lake, ahead).records()
    return 0


@contextmanager
def _reading() -> Iterator[None]:
    import duckdb

    try:
        yield
    except (LogError, OSError, duckdb.Error) as error:
        if isinstance(error, duckdb.InterruptException) or getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _NotJudgedError("unreadable_log", str(error).partition("\n")[0]) from None


def _judge(watched: Watched, state: State, end: datetime, folder: Path, ahead: int, outcomes_may_come: bool) -> bool:
    """Judge the measures and columns of a period, and return whether its decisions could be used."""
    period = _period(end, watched.hours)
    try:
        with _reading():
            log = DecisionLog.of(watched.lake, period)
            gain, outcomes = watched.spec.reward.gain, watched.spec.outcome_kinds
            counted = measure(log, gain, outcomes, watched.spec.channels)
        if ahead > _MOST_AHEAD * counted.decisions:
            raise _NotJudgedError(
                "future_times",
                f"{ahead} decisions are dated after this check; the period has {counted.decisions}. The clock of a "
                "router is or was ahead",
            )
        if counted.decisions and not counted.users:
            text = f"none of {counted.decisions} decisions has a user: check the column user_id"
            raise _NotJudgedError("unreadable_log", text)
        if not counted.decisions:
            raise _no_decisions(watched, log, end)
        _check_outcomes(state, counted, outcomes_may_come)
    except _NotJudgedError as error:
        for name in GROUPS:
            state.groups[name] = Group(end=end, not_judged=error.why)
        return False
    _judge_measures(watched, state, counted, end)
    state.groups[COLUMNS] = group = Group(end=end, decisions=counted.decisions, users=counted.users)
    try:
        out = folder_of(folder, end)
        result, version = _columns(watched, log, out, f"until {end:%Y-%m-%d %H:%M}", end)
        column_alarms.judge(state, result, end, version, timedelta(hours=watched.hours))
    except _NotJudgedError as error:
        group.not_judged = error.why
    return True


def _no_decisions(watched: Watched, log: DecisionLog, end: datetime) -> _NotJudgedError:
    if not log.lake:
        return _NotJudgedError("no_decisions", messages.EMPTY_LAKE(lake=watched.lake.place))
    text = f"no decision from {log.period.since} to {log.period.until}"
    with _reading():
        if closed_as_usual(watched.lake, end, timedelta(hours=watched.hours)):
            return _NotJudgedError("closed", f"{text}, nor at this time of earlier weeks")
    return _NotJudgedError("no_decisions", text)


def closed_as_usual(lake: Lake, end: datetime, length: timedelta) -> bool:
    """Return whether earlier weeks had no decisions at this time of the week either, for example on a closed day.

    A week without any decisions is ignored, because it was probably an outage.
    """
    if length >= _WEEK:
        return False

    def decisions(since: datetime, until: datetime) -> bool:
        return DecisionLog.of(lake, Period(since, until)).holds_any()

    def healthy(at: datetime) -> bool:
        return decisions(at - _WEEK, at - length)

    before = (end - weeks * _WEEK for weeks in range(1, _LOOKED_BACK + 1))
    occasions = [at for at in before if healthy(at)][:_OCCASIONS] if healthy(end) else []
    return len(occasions) == _OCCASIONS and not any(decisions(at - length, at) for at in occasions)


def _check_periods(state: State, watched: Watched, now: datetime, path: Path) -> None:
    """With a state from the future, no period would be judged any more."""
    if state.judged_until is None:
        return
    if state.hours != watched.hours:
        raise StateError(messages.OTHER_PERIODS(path=path, hours=state.hours, wanted=watched.hours))
    if state.judged_until > now + timedelta(hours=watched.hours):
        raise StateError(messages.FUTURE_STATE(path=path, until=f"{state.judged_until:%Y-%m-%d %H:%M}"))


def _check_outcomes(state: State, counted: Counted, may_come: bool) -> None:
    """Raise an error if outcomes are still arriving, because missing outcomes look like a loss of gain."""
    if not counted.exposures or counted.outcomes_missing:
        return
    share = counted.heard / counted.exposures
    usual = median(state.heard) if len(state.heard) >= measure_alarms.FEWEST else 0.0
    if may_come and share < _HEARD * usual:
        raise _NotJudgedError(
            "late_outcomes",
            f"{share:.0%} of the exposures have outcomes, {usual:.0%} are usual: check whether outcomes are uploaded, "
            "or reported late",
        )
    state.heard = [*state.heard[-measure_alarms.MOST :], share]


def _judge_measures(watched: Watched, state: State, counted: Counted, end: datetime) -> None:
    if counted.incumbent and state.incumbent and counted.incumbent != state.incumbent:
        measure_alarms.forget(state.streams, "decisions", INCUMBENT)
    state.incumbent = counted.incumbent or state.incumbent
    length, units = timedelta(hours=watched.hours), loss_units(watched.spec)
    measure_alarms.judge(state.streams, counted.measured, end, length, units, counted.by_arm)
    for name in GROUPS:
        if name == COLUMNS:
            continue
        of_group = [each for each in counted.measured if each.group == name]
        state.groups[name] = group = Group(end=end, decisions=counted.decisions, users=counted.users)
        if name in OF_OUTCOMES and counted.outcomes_missing:
            text = f"none of {counted.exposures} exposures has an outcome or a cost: check whether they are reported"
            group.not_judged = NotJudged(reason="no_outcomes", text=text)
        elif not of_group:
            group.not_judged = _not_measured(state, counted, name)
        elif all(state.streams[each.stream].expected is None for each in of_group):
            seen = max(len(state.streams[each.stream].past) for each in of_group)
            fewest = measure_alarms.FEWEST + measure_alarms.WAIT
            text = f"{seen} periods seen; expected values are known after {fewest}"
            group.not_judged = NotJudged(reason="learning", text=text)


def _not_measured(state: State, counted: Counted, group: str) -> NotJudged:
    seen = counted.seen.get(group, 0)
    known = any(labels_of(name).group == group for name in state.streams)
    if counted.users >= MIN_USERS and not (seen or known):
        return NotJudged(reason="nothing_there", text=f"no policy logs the values that {group} need")
    text = f"{counted.users} users in {counted.decisions} decisions; at most {seen} count for a measure of {group}"
    return NotJudged(reason="too_few_users", text=f"{text}, which needs {MIN_USERS}")


def _columns(
    watched: Watched, log: DecisionLog, out: Path, period: str, until: datetime | None = None
) -> tuple[DriftResult, str]:
    """Compare the columns of a period with a model's training sample. Without `until`, no page is drawn."""
    sample = _sample(watched, log)
    with _reading():
        context, whole = log.sample("context", MAX_ROWS)
        static, users = log.sample("static", MAX_ROWS) if sample.static else (pd.DataFrame(), whole)
    drawn: Any = {"page": "never" if until is None else watched.page, "grid": sample.thresholds}
    title = f"columns of the context, {period}"
    result = check(sample.rows, context, sample.context, out_dir=out, whole=whole, title=title, **drawn)
    if result.not_checked is not None:
        raise _NotJudgedError("too_few_users", result.not_checked)
    if len(static):
        out, title = out / "static", f"columns of users, {period}"
        of_users = check(sample.rows, static, sample.static, out_dir=out, whole=users, title=title, **drawn)
        result = replace(result, columns=result.columns + of_users.columns)
    return result, sample.model_version


def _sample(watched: Watched, log: DecisionLog) -> TrainingSample:
    """Return the training sample of a model that answered in the period, or else of the newest model."""
    with _reading():
        digests = log.models()
        rule = log.newest_policy(INCUMBENT) if not digests else None
    sample, faults = None, []
    for digest in (*digests, None):
        try:
            sample = watched.sample_of(digest)
        except ArtifactError as error:
            faults.append(str(error))
        if sample is not None:
            break
    if sample is None and faults:
        raise _NotJudgedError("no_model", faults[0])
    if sample is None and rule is not None:
        text = f"the deciding policy, {rule[1]}, is no model with a training sample, and there is no other model"
        raise _NotJudgedError("nothing_there", text)
    if sample is None and not digests:
        raise _NotJudgedError("no_model", "no model took a decision in the period, so there is no training sample")
    if sample is None:
        raise _NotJudgedError("no_model", f"the model with the newest decision, digest {digests[0]}, was not found")
    if {column.name for column in sample.context} != {column.name for column in watched.spec.context}:
        raise _NotJudgedError(
            "other_columns", f"model {sample.model_version} was trained on other context columns than the description's"
        )
    return sample


def _look_at_last_hours(watched: Watched, state: State, now: datetime, folder: Path) -> None:
    """Find columns that have lost their values within the last hours."""
    end = now.replace(second=0, microsecond=0)
    log = DecisionLog.of(watched.lake, _period(end, watched.hours))
    state.groups.pop(LAST_HOURS, None)
    try:
        result, _ = _columns(watched, log, folder / "last-hours", f"the last {watched.hours} hours")
    except _NotJudgedError as error:
        # The other reasons are already reported for the periods.
        if error.why.reason == "unreadable_log":
            state.groups[LAST_HOURS] = Group(end=end, not_judged=error.why)
        return
    state.groups[LAST_HOURS] = Group(end=end, decisions=result.rows, users=result.users)
    broken = {}
    for column in result.columns:
        if _is_broken(column):
            since = state.broken[column.column].since if column.column in state.broken else end
            text = f"{column.column} {words_of(str(column.problem)).summary}: {column.message}"
            broken[column.column] = Alarm(kind="data_quality", since=since, text=text)
    state.broken = broken


def _is_broken(column: ColumnDrift) -> bool:
    if column.problem is None or words_of(column.problem).kind != "data_quality":
        return False
    # Without a score, the column is missing or has no value.
    if column.score is None or column.threshold is None:
        return True
    return column.score >= _SURE * column.threshold


def _period(end: datetime, hours: int) -> Period:
    return Period(end - timedelta(hours=hours), end)

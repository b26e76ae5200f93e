"""One check: every period that is over and not judged yet, and whether columns have lost their values just now.

    state = run(Watched(decision_log, spec, sample_of), folder, now)

A period is judged once, in the order of time, also after a day on which nobody checked: which is why evidence may be
added up. It waits until its decisions and outcomes have been exported. What can't be judged says why, keeps its
evidence, and is no reason to stop: what it can't be judged for is what people have to mend.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.decision_log import DecisionLog, Period
from monitoring.drift import DriftResult, check
from monitoring.evidently_report import Filing
from monitoring.watch import column_alarms, measure_alarms
from monitoring.watch.measures import MIN_USERS, Measured, measure
from monitoring.watch.retrain import update_request
from monitoring.watch.state import STATE_FILE, Alarm, Group, NotJudged, Reason, State
from monitoring.watch.streams import COLUMNS, GROUPS
from monitoring.watch.training_sample import TrainingSample
from mtorl.artifact.artifact import ArtifactError
from mtorl.drift.drift_tests import words_of
from mtorl.drift.reference import MAX_ROWS
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError

EXPORTED_AFTER = timedelta(hours=1)
"""After the end of a period: by then its records are in the log."""
MOST_PERIODS = 60
"""That a first check looks back."""
_KEPT_PAGES = 14
_LAST_HOURS = "last-hours"


@dataclass(frozen=True)
class Watched:
    """What is watched.

    Attributes:
        decision_log: Folder with decisions.parquet and outcomes.parquet.
        spec: Description of the data set.
        sample_of: The training sample of the model with a digest; None if it isn't found.
        hours: Length of a period; periods begin at midnight UTC, so it divides 24, or is a multiple of it.
        seed: Of thresholds that an artifact lacks.
        workspace: Where Evidently's reports of the columns are filed; None: nowhere.
    """

    decision_log: Path
    spec: DatasetSpec
    sample_of: Callable[[str], TrainingSample | None]
    hours: int = 24
    seed: int = 7
    workspace: Path | None = None


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
    """Judge what is over and not judged yet, look at the last hours, and write the state.

    Args:
        watched: What is watched.
        folder: Of the state, and of a page a period.
        now: The present, if not the clock's.
        on_period: Told of the end of each period before it is judged, and how many are left.

    Raises:
        StateError: the state can't be read.
    """
    now = now or datetime.now(UTC)
    path = folder / STATE_FILE
    state = State.read(path)
    if state.hours != watched.hours:  # other periods are not comparable
        state = State()
    state.hours = watched.hours
    ends = list(_ends(watched, state, now))
    for i, end in enumerate(ends):
        if on_period:
            on_period(end, len(ends) - i)
        _judge(watched, state, end, folder)
        state.judged_until = end
        state.write(path)  # a check that is ended in the middle has not done its work for nothing
    _look_at_last_hours(watched, state, now, folder)
    update_request(state, now)
    state.checked = now
    state.write(path)
    _prune(folder / "periods")
    return state


def _ends(watched: Watched, state: State, now: datetime) -> Iterator[datetime]:
    length = timedelta(hours=watched.hours)
    last = _floor(now - EXPORTED_AFTER, watched.hours)
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
    try:
        return DecisionLog.in_folder(watched.decision_log).first_time()
    except (LogError, OSError):
        return None


def _judge(watched: Watched, state: State, end: datetime, folder: Path) -> None:
    period = _period(end, watched.hours)
    try:
        log = DecisionLog.in_folder(watched.decision_log, period)
        gain, outcomes = watched.spec.reward.gain, watched.spec.outcome_kinds
        counted = measure(log, gain, outcomes, watched.spec.channels)
        if not counted.decisions:
            raise _NotJudgedError("no_decisions", f"no decision from {period.since} to {period.until}")
    except (_NotJudgedError, LogError, OSError) as error:
        why = error.why if isinstance(error, _NotJudgedError) else NotJudged(reason="unreadable_log", text=str(error))
        for name in GROUPS:
            state.groups[name] = Group(end=end, not_judged=why)
        return
    _judge_measures(state, counted.measured, end, counted.decisions, counted.users)
    state.groups[COLUMNS] = group = Group(end=end, decisions=counted.decisions, users=counted.users)
    try:
        out = folder / "periods" / end.strftime("%Y-%m-%dT%H")
        result, version = _columns(watched, log, out, f"until {end:%Y-%m-%d %H:%M}", end if watched.workspace else None)
        column_alarms.judge(state, result, end, version)
    except _NotJudgedError as error:
        group.not_judged = error.why


def _judge_measures(state: State, measured: tuple[Measured, ...], end: datetime, decisions: int, users: int) -> None:
    measure_alarms.judge(state.streams, measured, end)
    for name in GROUPS:
        if name == COLUMNS:
            continue
        of_group = [each for each in measured if each.group == name]
        state.groups[name] = group = Group(end=end, decisions=decisions, users=users)
        if not of_group:
            text = f"{users} users in {decisions} decisions; a measure needs {MIN_USERS} users who have it"
            group.not_judged = NotJudged(reason="too_few_users", text=text)
        elif all(state.streams[each.stream].expected is None for each in of_group):
            seen = max(len(state.streams[each.stream].past) for each in of_group)
            fewest = measure_alarms.FEWEST + measure_alarms.WAIT
            text = f"{seen} periods seen; what to expect is known after {fewest}"
            group.not_judged = NotJudged(reason="learning", text=text)


def _columns(
    watched: Watched, log: DecisionLog, out: Path, period: str, filed: datetime | None = None
) -> tuple[DriftResult, str]:
    """Context and static columns of a period beside the training sample of the model that decided last in it."""
    sample = _sample(watched, log)
    context, whole = log.context(MAX_ROWS)
    kept: Any = {"grid": sample.thresholds, "seed": watched.seed}
    if filed is not None and watched.workspace is not None:
        kept["filing"] = Filing(watched.workspace, filed, sample.model_version)
    result = check(
        sample.rows,
        context,
        sample.context,
        out_dir=out,
        whole=whole,
        title=f"columns of the context, {period}",
        **kept,
    )
    if result.not_checked is not None:
        raise _NotJudgedError("too_few_users", result.not_checked)
    static, users = log.static(MAX_ROWS)
    if sample.static and len(static):
        of_users = check(
            sample.rows,
            static,
            sample.static,
            out_dir=out / "static",
            whole=users,
            title=f"columns of users, {period}",
            **kept,
        )
        result = replace(result, columns=result.columns + of_users.columns)
    return result, sample.model_version


def _sample(watched: Watched, log: DecisionLog) -> TrainingSample:
    digest = log.newest_model("challenger")
    if digest is None:
        raise _NotJudgedError("no_model", "no model took a decision in the period, so there is no training sample")
    try:
        sample = watched.sample_of(digest)
    except ArtifactError as error:
        raise _NotJudgedError("no_model", str(error)) from None
    if sample is None:
        raise _NotJudgedError("no_model", f"the model that took the newest decision, digest {digest}, is not there")
    if {column.name for column in sample.context} != {column.name for column in watched.spec.context}:
        raise _NotJudgedError(
            "other_columns", f"model {sample.model_version} was trained on other context columns than are described now"
        )
    return sample


def _look_at_last_hours(watched: Watched, state: State, now: datetime, folder: Path) -> None:
    """Columns that have lost their values are found within hours: no evidence has to be added up for that."""
    end = now.replace(second=0, microsecond=0)
    log = DecisionLog.in_folder(watched.decision_log, _period(end, watched.hours))
    try:
        result, _ = _columns(watched, log, folder / _LAST_HOURS, f"the last {watched.hours} hours")
    except _NotJudgedError:
        return  # what could be said of it is said of the periods
    except (LogError, OSError) as error:
        group = state.groups.setdefault(COLUMNS, Group())
        group.not_judged = NotJudged(reason="unreadable_log", text=str(error))
        return
    broken = {}
    for column in result.columns:
        if column.problem is not None and words_of(column.problem).kind == "data_quality":
            since = state.broken[column.column].since if column.column in state.broken else end
            text = f"{column.column} {words_of(column.problem).summary}: {column.message}"
            broken[column.column] = Alarm(kind="data_quality", since=since, text=text)
    state.broken = broken


def _period(end: datetime, hours: int) -> Period:
    return Period((end - timedelta(hours=hours)).isoformat(), end.isoformat())


def _prune(pages: Path) -> None:
    for old in sorted(pages.glob("*"))[:-_KEPT_PAGES]:
        shutil.rmtree(old, ignore_errors=True)

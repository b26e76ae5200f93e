"""Applies the monitor to each day of a simulated market.

Days must be judged in the same way as in `monitoring.watch.check`. Only context columns come directly from the
simulated rows, because converting them to JSON takes most of the time.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.monitoring_runs.days import START, Days, Shift, add_to_lake, healthy
from monitoring.decision_log import DecisionLog, Period
from monitoring.watch import column_alarms, measure_alarms
from monitoring.watch.columns import DriftResult, check
from monitoring.watch.measures import measure
from monitoring.watch.state import State
from monitoring.watch.stream_names import COLUMNS, labels_of
from mtorl.drift.drift_tests import words_of
from mtorl.drift.reference import sample_users
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column, DatasetSpec

IMITATIONS = 200
SPEC = DatasetSpec.load("simulator")


class DayResult(NamedTuple):
    """The monitor's findings after a day.

    Attributes:
        judged: Whether the monitor has learned from enough days to judge this one.
        kinds: Kinds of all open alarms.
        of_measures: Whether an alarm of the kind "drift" is about a measure.
        of_columns: Whether any alarm is about a context column.
    """

    judged: bool
    kinds: frozenset[str]
    of_measures: bool
    of_columns: bool


def columns_of(days: Days) -> tuple[Column, ...]:
    kinds = {"device": "categorical", "placement": "categorical"}
    return tuple(Column(name=name, kind=kinds.get(name, "numeric")) for name in days.columns)


@dataclass
class Monitored:
    """A simulated market, and the state of its monitor."""

    days: Days
    state: State = field(default_factory=State)
    next: int = 0

    def __post_init__(self) -> None:
        self.columns = columns_of(self.days)
        self.reference = sample_users(self.days.sample())
        kinds = {column.name: column.kind for column in self.columns}
        self.grid = ThresholdGrid.measure(self.reference, kinds, imitations=IMITATIONS)

    def branch(self) -> Monitored:
        """Return a copy, so that several changes can be tried after the same days."""
        other = copy.copy(self)
        other.state = self.state.model_copy(deep=True)
        return other

    def day(self, shift: Shift = healthy) -> DayResult:
        """Simulate and judge the next day."""
        rows = self.days.rows(self.next, shift)
        end = START + timedelta(days=self.next + 1)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            add_to_lake(folder, self.days.records(self.next, rows, with_context=False))
            period = Period(end - timedelta(days=1), end)
            log = DecisionLog.of(folder, period)
            counted = measure(log, SPEC.reward.gain, SPEC.outcome_kinds, SPEC.channels)
            judged = measure_alarms.judge(self.state.streams, counted.measured, end)
            result = self._check(rows, folder / "page")
        column_alarms.judge(self.state, result, end, "1")
        self.next += 1
        alarms = self.state.alarms()
        tickets = {name for name, alarm in alarms.items() if alarm.kind == "drift"}
        of_columns = {name for name in alarms if labels_of(name).group == COLUMNS}
        return DayResult(
            judged=judged > 0,
            kinds=frozenset(alarm.kind for alarm in alarms.values()),
            of_measures=any(tickets - of_columns),
            of_columns=any(of_columns),
        )

    def _check(self, rows: pd.DataFrame, folder: Path) -> DriftResult:
        return check(self.reference, sample_users(rows), self.columns, self.grid, out_dir=folder, page="never")

    def hours_until_broken(self, shift: Shift) -> int | None:
        """Apply `shift` from midnight on, and return after how many hours the monitor reports a broken column.

        Returns None if it reports nothing on that day.
        """
        before, after = self.days.rows(self.next - 1), self.days.rows(self.next, shift)
        for hours in range(1, 25):
            last = pd.concat([before[before["hour"] >= hours], after[after["hour"] < hours]])
            with tempfile.TemporaryDirectory() as folder:
                result = self._check(last.sort_values("user_id", kind="stable"), Path(folder))
            problems = [column.problem for column in result.columns if column.problem]
            if any(words_of(problem).kind == "data_quality" for problem in problems):
                return hours
        return None

"""A simulated market, with its log, a training sample and a monitor."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.monitoring_runs.days import START, Days, Shift, add_to_lake, healthy
from monitoring.watch.check import Watched, run
from monitoring.watch.state import State
from monitoring.watch.training_sample import TrainingSample
from mtorl.drift.reference import sample_users
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake

SPEC = DatasetSpec.load("simulator").replace(static=(), segment=None)
DAYS = Days(users_a_day=500, seed=3)
_KINDS = {column.name: column.kind for column in SPEC.context}


@cache
def sample(version: str = "1", days: Days = DAYS) -> TrainingSample:
    rows = sample_users(days.sample())
    grid = ThresholdGrid.measure(rows, _KINDS, imitations=100)
    return TrainingSample(version, rows, SPEC.context, (), grid)


class Market:
    """A simulated market that writes its log day by day, and a monitor that checks the log."""

    def __init__(self, folder: Path, days: Days = DAYS) -> None:
        self.days, self.log, self.folder = days, folder / "log", folder / "state"
        self.next = 0

    def live(self, days: int, shift: Shift = healthy) -> None:
        for _ in range(days):
            records = self.days.records(self.next, self.days.rows(self.next, shift))
            add_to_lake(self.log, records, name=f"{self.next:08d}")
            self.next += 1

    @property
    def night(self) -> datetime:
        return START + timedelta(days=self.next, hours=2)

    @property
    def watched(self) -> Watched:
        return Watched(Lake.open(self.log), SPEC, lambda _: sample(days=self.days), page="never")

    def check(self, now: datetime | None = None, **options: Any) -> State:
        return run(self.watched, self.folder, now or self.night, **options)

    def nights(self, days: int, shift: Shift = healthy) -> list[State]:
        states = []
        for _ in range(days):
            self.live(1, shift)
            states.append(self.check().model_copy(deep=True))
        return states


def fewer_clicks(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows.assign(rate=rows["rate"] * 0.8)


def worse_challenger(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    challenged = rows["user_id"].str[-1].isin(list("13579")).to_numpy()
    arm = np.where(challenged, "challenger", "incumbent")
    return rows.assign(arm=arm, rate=rows["rate"] * ~challenged)


def kinds(state: State) -> set[str]:
    return {alarm.kind for alarm in state.alarms().values()}

"""Measures one check of the monitor on a day with many decisions."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.monitoring_runs.days import START, Days, add_to_lake
from monitoring.watch.check import Watched, run
from monitoring.watch.training_sample import TrainingSample
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.lake import Lake


def check_day(folder: str | Path, page: bool) -> dict[str, Any]:
    folder = Path(folder)
    columns = tuple(Column(**each) for each in json.loads((folder / "columns.json").read_text()))
    spec = DatasetSpec.load("simulator").replace(context=columns, static=(), segment=None)
    grid = ThresholdGrid.from_dict(json.loads((folder / "grid.json").read_text()))
    sample = TrainingSample("1", pd.read_parquet(folder / "reference.parquet"), columns, (), grid)
    watched = Watched(Lake.open(folder / "log"), spec, lambda _: sample, page="always" if page else "moved")
    started = time.perf_counter()
    state = run(watched, folder / f"state-{page}", START + timedelta(days=1, hours=1))
    seconds = time.perf_counter() - started
    faults = {name: why for name, group in state.groups.items() if (why := group.not_judged) is not None}
    assert "context" not in faults and all(why.reason == "learning" for why in faults.values()), faults
    return {"seconds": seconds, "cpu_seconds": time.process_time()}  # the CPU time also covers imports


def write_log(folder: str | Path, decisions: int, part: int, further: int) -> dict[str, Any]:
    """Write a day with many decisions to a folder, together with the training sample.

    Args:
        decisions: Number of decisions of the day.
        part: Number of decisions in each file.
        further: Number of additional context columns.
    """
    from benchmarks.monitoring_runs.monitored import IMITATIONS, columns_of
    from mtorl.drift.reference import sample_users

    users = round(part / 1.5)
    # A small pool gives each user about ten decisions on this day.
    pool = max(decisions // 10, users)
    sample = Days(users_a_day=users, seed=decisions, further=further, pool=pool)
    columns = columns_of(sample)
    reference = sample_users(sample.sample(2))
    kinds = {column.name: column.kind for column in columns}
    grid = ThresholdGrid.measure(reference, kinds, imitations=IMITATIONS)
    folder = Path(folder)
    (folder / "grid.json").write_text(json.dumps(grid.to_dict()))
    (folder / "columns.json").write_text(json.dumps([{"name": c.name, "kind": c.kind} for c in columns]))
    reference.to_parquet(folder / "reference.parquet")
    written = number = 0
    while written < decisions:
        days = Days(users_a_day=users, seed=number, further=further, pool=pool)
        records = days.records(0, days.rows(0).head(decisions - written))
        add_to_lake(folder / "log", records, f"{number:08d}")
        written, number = written + len(records["decision"]), number + 1
    return {}

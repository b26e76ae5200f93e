"""Test that an incremental run with exposures from the lake equals a full run."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.collect.compact import compact
from features.offline import store
from features.offline.exposures import write_exposures
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.runtime.files import remove
from tests.features.collect.decision_logs import add, decision, outcome
from tests.features.feature_run import US, FeatureRun, none_if_missing, random_journeys
from tests.lakes import ids_in

Records = list[tuple[pd.Timestamp, dict[str, Any]]]
"""Records, each with the time of its upload."""


def records_of(rows: pd.DataFrame, spec: DatasetSpec, rng: np.random.Generator) -> tuple[Records, Records]:
    decisions, outcomes = [], []
    for name, row in zip(rows.index.astype(str), rows.to_dict("records"), strict=True):
        at = row["timestamp"]
        values = {
            kind: {column.name: none_if_missing(row[column.name]) for column in columns}
            for kind, columns in (("context", spec.context), ("static", spec.static))
        }
        own = {name: row[name] for name in ("user_id", "campaign_id", "channel")}
        times = dict.fromkeys(("event_time", "request_time"), at.isoformat())
        uploaded = at + pd.Timedelta(int(rng.choice([1, 1, 1, 300])), "min")
        decisions.append((uploaded, decision(f"d{name}", **own, **times, **values, expose=True, withdrawn=False)))
        for kind in ("cost", "click", "conversion", "revenue"):
            received = at + pd.Timedelta(0 if kind == "cost" else int(rng.choice([1, 90, 1440])), "min")
            times = dict.fromkeys(("event_time", "received_time"), received.isoformat())
            record = outcome(f"d{name}-{kind}", f"d{name}", kind, float(row[kind])) | times
            uploaded = received + pd.Timedelta(int(rng.choice([1, 1, 200])), "min")
            outcomes.append((uploaded, record))
    return decisions, outcomes


def dated(files: Iterable[Path], at: pd.Timestamp, known: set[Path]) -> None:
    for file in set(files) - known:
        os.utime(file, (at.timestamp(), at.timestamp()))
        known.add(file)


@pytest.mark.parametrize(("kind", "seed", "timed"), [("sqlite", 1, ()), ("redis", 2, ("conversion", "revenue"))])
def test_an_incremental_run_leaves_the_state_of_a_full_run(toy, tmp_path, redis_port, kind, seed, timed):
    spec, rng = toy.spec.replace(timed=timed, outcome_hours=48), np.random.default_rng(seed)
    log, lake = random_journeys(toy, seed, late=0.0), Lake.open(tmp_path / "lake")
    log["campaign_id"] = log["campaign_id"].fillna("c1")
    for name in timed:
        log[f"{name}_time"] = log["timestamp"].where(log[name] != 0)
    own = log[rng.random(len(log)) < 0.5]
    decisions, outcomes = records_of(own, spec, rng)
    logged = log.drop(own.index)
    going_on = FeatureRun(toy, tmp_path / "going-on", logged, spec, redis_port if kind == "redis" else 0).create()
    whole = FeatureRun(toy, tmp_path / "whole", logged, going_on.spec)  # always SQLite
    before, last, files, looked_at, first = None, None, set(), [], log["timestamp"].min()
    ends = [first + pd.Timedelta(hours=hours) for hours in (1, 2, 5, 26, 30, 75, 170, 380, 980, 990)]
    for number, end in enumerate(ends):
        new = [
            [record for uploaded, record in of if uploaded <= end and (number == 0 or uploaded > ends[number - 1])]
            for of in (decisions, outcomes)
        ]
        ids_of_known = {record["decision_id"] for uploaded, record in decisions if uploaded <= end}
        ids_of_known |= set(ids_in(lake))
        add(Path(lake.place), new[0], [record for record in new[1] if record["decision_id"] in ids_of_known])
        dated(Path(lake.place).rglob("*.parquet"), end, files)
        if number % 3 == 1:
            compact(lake, end.to_pydatetime())
            dated(Path(lake.place).rglob("*.parquet"), end, files)
        then = logged[logged["timestamp"] <= end]
        if not lake or then.empty:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        exposures = write_exposures(lake, going_on.spec, folder, end.to_pydatetime(), last)
        path = replace(going_on, log=then).path
        before = store.materialize(going_on.root, going_on.spec, path, since=before, exposures=exposures)
        looked_at.append(before.users)
        last = end.to_pydatetime()
        if number % 3 and number != len(ends) - 1:
            continue
        remove(whole.root)
        store.define(whole.root, whole.spec)
        everything = write_exposures(lake, whole.spec, whole.folder, last)
        store.materialize(whole.root, whole.spec, path, exposures=everything)
        users = sorted(log["user_id"].unique())
        assert repr(going_on.read(users, end + US)) == repr(whole.read(users, end + US)), number
    again = store.materialize(going_on.root, going_on.spec, path, since=before, exposures=exposures)
    assert again.written == 0
    assert min(looked_at) < len(users) / 2, looked_at

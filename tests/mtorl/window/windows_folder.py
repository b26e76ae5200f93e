import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mtorl.log.dataset import DatasetSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import SCHEMA_VERSION

SPEC = DatasetSpec.load("simulator").replace(window=4, journey_gap_days=2.0)
LOG = Simulator(SimulatorConfig(users=60, seed=3)).log()


def with_steps() -> pd.DataFrame:
    users = []
    for _, rows in LOG.groupby("user_id", sort=False):
        journey_of = (rows["timestamp"].diff() > pd.Timedelta(days=SPEC.journey_gap_days)).cumsum()
        users.append(rows.assign(step=rows.groupby(journey_of).cumcount()))
    return pd.concat(users, ignore_index=True)


STEPS = with_steps()


def write_windows_folder(folder: Path, rows: pd.DataFrame, shards: int = 3) -> dict[str, Any]:
    """Write a windows folder, with the users distributed over the shards in turn."""
    (folder / "steps").mkdir(parents=True)
    number = pd.factorize(rows["user_id"])[0] % shards
    listed = []
    for i in range(shards):
        file, part = f"steps/part-{i:05d}.parquet", rows[number == i]
        table = pa.Table.from_pandas(part, preserve_index=False)
        if i:  # DuckDB marks columns without nulls as such
            fields = [field.with_nullable(table[field.name].null_count > 0) for field in table.schema]
            table = table.cast(pa.schema(fields))
        pq.write_table(table, folder / file)
        sha256 = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        listed.append({"file": file, "rows": len(part), "users": part["user_id"].nunique(), "sha256": sha256})
    manifest = {"schema_version": SCHEMA_VERSION, "rows": len(rows), "shards": listed, "log_fingerprint": "abc"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    SPEC.save(folder / "dataset.yaml")
    return manifest


def recorded_late(rows: pd.DataFrame, delays: list[float]) -> pd.DataFrame:
    """Return the rows with recording times that are late by `delays` in turn, in days."""
    days = np.resize(delays, len(rows))
    return rows.assign(created_timestamp=rows["timestamp"] + pd.to_timedelta(days, unit="D").as_unit("us"))

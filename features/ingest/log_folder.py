"""The first step of every run: a raw log, or the simulator, becomes a folder with a validated log and its description.

The folder holds ``touchpoints.parquet``, ``dataset.yaml`` and ``ingest.json``; every later step reads the description
from there, so a data set is named once.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import ibis
import pyarrow.parquet as pq

from features.engine import open_engine
from features.ingest.ingest import IngestReport, LogError, ingest_log
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.splits import unit_order
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, fingerprint, write_log
from mtorl.runtime import progress
from mtorl.simulator.simulator import Simulator, SimulatorConfig


def ingest(
    source: str, dataset: str, out: str, quarantine: str, on_bad_rows: str, users: int, seed: int
) -> IngestReport:
    """Write a log folder.

    Args:
        source: Path of the raw log; empty runs the simulator.
        dataset: Name of a built-in data set, or the path of a YAML.
        out: Folder to write.
        quarantine: Side file for rows that fail validation.
        on_bad_rows: "fail" stops at the first faulty log, "quarantine" goes on without the faulty rows.
        users: Users to simulate (0 for 6,000); of a real log, the most to keep (0 keeps all).
        seed: Seed of the simulator and of the choice of users.

    Raises:
        LogError: The input can't be used; the message says what to mend.
        SpecError: The data set's description can't be used.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_FILE
    try:
        spec = DatasetSpec.load(dataset)
        if source:
            report = ingest_log(Path(source), spec, path, Path(quarantine), on_bad_rows)
            if users and users < report.users:
                report = _keep(path, users, seed, report)
        else:
            if spec.adapter != "simulator":
                raise LogError(
                    f"dataset {spec.name!r} needs a log: give its path (make run DATA=... DATASET={spec.name})"
                )
            log = Simulator(SimulatorConfig(users=users or SimulatorConfig.users, seed=seed)).log()
            write_log(log, path, spec)
            report = IngestReport(
                rows=len(log), users=log["user_id"].nunique(), quarantined=0, faults=(), fingerprint=fingerprint(log)
            )
    except (LogError, SpecError) as error:
        progress.input_error(str(error))
        shutil.rmtree(folder, ignore_errors=True)
        raise
    spec.save(folder / DATASET_FILE)
    (folder / INGEST_FILE).write_text(json.dumps(asdict(report), indent=2))
    return report


def _keep(path: Path, users: int, seed: int, report: IngestReport) -> IngestReport:
    """Keep a seeded sample of whole users: a smaller log with the same journeys."""
    with open_engine("duckdb") as engine:
        log = engine.read(path)
        everyone = log.select("user_id").distinct().to_pyarrow()["user_id"].to_pylist()
        chosen = ibis.memtable({"user_id": unit_order(everyone, seed)[:users]})
        engine.write(log.semi_join(chosen, "user_id").order_by("user_id", "timestamp"), path)
    with pq.ParquetFile(path) as file:
        return replace(report, rows=file.metadata.num_rows, users=users, fingerprint=fingerprint(file.iter_batches()))

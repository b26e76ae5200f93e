"""Turns a raw log, or the simulator's, into a folder with a validated log: the first step of every run.

The folder holds ``touchpoints.parquet``, ``dataset.yaml`` and ``ingest.json``. Every later step reads the description
from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import pyarrow.parquet as pq

from features.engine import open_engine
from features.ingest.ingest import IngestReport, LogError, ingest_log
from features.ingest.object_store import is_remote
from mtorl.log.dataset import SIMULATOR, DatasetSpec, SpecError
from mtorl.log.splits import unit_order
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, fingerprint, write_log
from mtorl.simulator.simulator import Simulator, SimulatorConfig

RAW = "raw"
"""In `INGEST_FILE`: the `Origin` of the log; null for the simulator's."""


@dataclass(frozen=True)
class Origin:
    """Path or address of the raw log that was read, and the description by which it was read."""

    log: str
    spec: DatasetSpec

    @classmethod
    def of(cls, path: str, spec: DatasetSpec) -> Origin:
        """The origin that a path on this machine means."""
        return cls(path if is_remote(path) else str(Path(path).absolute()), spec)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` is the inverse."""
        return {"log": self.log, "description": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """From plain values."""
        return cls(data["log"], DatasetSpec.from_dict(data["description"]))


@dataclass(frozen=True)
class RawLog:
    """A raw log.

    Attributes:
        path: The file or folder, or its address in an object store; empty runs the simulator.
        dataset: Name of a built-in data set, or the path of a YAML.
        bad_rows: "fail" stops at a log with faulty rows, "quarantine" goes on without them.
        users: Users to simulate (0 for 6,000); of a real log, the most to keep (0 keeps all).
        seed: Seed of the simulator and of the choice of users.
    """

    path: str = ""
    dataset: str = SIMULATOR
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7

    @classmethod
    def named(cls, source: str, dataset: str, bad_rows: str = "fail", users: int = 0, seed: int = 7) -> RawLog:
        """A log as a pipeline names it: `source` is a path, or "simulator" to simulate one."""
        if not source:
            raise LogError(f"source: give the path of the touchpoint log, or {SIMULATOR!r} to simulate one")
        if not dataset:
            raise LogError("dataset: give the path of the log's description, or the name of a built-in one")
        return cls("" if source == SIMULATOR else source, dataset, bad_rows, users, seed)

    def __post_init__(self) -> None:
        if self.bad_rows not in ("fail", "quarantine"):
            raise LogError(f"bad_rows: {self.bad_rows!r} is not one of fail, quarantine")


def ingest(raw: RawLog, folder: Path, quarantine: Path) -> IngestReport:
    """Write the folder of a log; if the log can't be used, there is no folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        spec = DatasetSpec.load(raw.dataset)
        report = _from_file(raw, spec, folder / LOG_FILE, quarantine) if raw.path else _simulated(raw, spec, folder)
    except (LogError, SpecError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    spec.of_canonical_log().save(folder / DATASET_FILE)
    origin = Origin.of(raw.path, spec).to_dict() if raw.path else None
    (folder / INGEST_FILE).write_text(json.dumps({**asdict(report), RAW: origin}, indent=2))
    return report


def _simulated(raw: RawLog, spec: DatasetSpec, folder: Path) -> IngestReport:
    if not spec.simulated:
        raise LogError(f"dataset {spec.name!r} needs a log: give its path; only the simulator makes its own")
    log = Simulator(SimulatorConfig(users=raw.users or SimulatorConfig.users, seed=raw.seed)).log()
    write_log(log, folder / LOG_FILE, spec)
    return IngestReport(
        rows=len(log), users=log["user_id"].nunique(), quarantined=0, faults=(), fingerprint=fingerprint(log)
    )


def _from_file(raw: RawLog, spec: DatasetSpec, path: Path, quarantine: Path) -> IngestReport:
    report = ingest_log(raw.path, spec, path, quarantine, raw.bad_rows)
    if not raw.users or raw.users >= report.users:
        return report
    # A sample of whole users: a smaller log with the same journeys.
    with open_engine("duckdb") as engine:
        log = engine.read(path)
        everyone = log.select("user_id").distinct().to_pyarrow()["user_id"].to_pylist()
        chosen = ibis.memtable({"user_id": unit_order(everyone, raw.seed)[: raw.users]})
        engine.write(log.semi_join(chosen, "user_id").order_by("user_id", "timestamp"), path)
    with pq.ParquetFile(path) as file:
        content = fingerprint(file.iter_batches())
        return replace(report, rows=file.metadata.num_rows, users=raw.users, fingerprint=content)

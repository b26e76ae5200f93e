"""Puts a first touchpoint log on a volume; features are kept up to date from it.

path = first_log(Path("/mnt/mtorl"), raw, simulate=False, quarantine=Path("faulty.csv"))

    VOLUME/touchpoints.parquet      never rewritten here once it is there: the log pipeline appends to it
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from features.ingest.ingest import LogError
from features.ingest.log_folder import RawLog, ingest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LOG_FILE
from mtorl.runtime.files import replacing


def first_log(volume: Path, raw: RawLog, simulate: bool, quarantine: Path) -> Path:
    """The log of a volume. A missing one is written from `raw`, or simulated until yesterday."""
    path = volume / LOG_FILE
    spec = DatasetSpec.load(raw.dataset)
    if simulate and not spec.simulated:
        raise LogError(f"simulate: {spec.name!r} is not the simulator's data set; leave out one or the other")
    if path.exists():
        return path
    if not raw.path and not simulate:
        raise LogError(
            f"no touchpoint log at {path}: put one there in the layout of docs/data.md, name another (log), or say "
            "simulate to try everything on simulated users"
        )
    volume.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=volume, prefix=".first-log-") as folder:
        log = Path(folder, LOG_FILE)
        if raw.path:
            ingest(raw, Path(folder), quarantine)
        else:
            from mtorl.simulator.raw_log import write_raw_log
            from mtorl.simulator.simulator import SimulatorConfig

            market = SimulatorConfig(users=raw.users or SimulatorConfig.users, seed=raw.seed)
            first_day = datetime.now(UTC).date() - timedelta(days=market.days)
            write_raw_log(log, replace(market, start=first_day.isoformat()))
        with replacing(path) as unfinished:
            log.rename(unfinished)
    return path

"""Measures the batch jobs that process the last day of a lake. Each function is a task for a subprocess."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks._process import clock
from benchmarks.scale_runs.made_lake import CHANNELS, END, SPEC, MadeLake

LOOKED_AT = "experiment-0"


def make(folder: str, decisions: int, days: int) -> dict[str, Any]:
    """Write all days of a lake except the last one, as compacted hours."""
    made = MadeLake(Path(folder), decisions, days)
    with clock() as figures:
        made.write_history()
    return {**figures, "users": made.users}


def arrive(folder: str, decisions: int, days: int) -> dict[str, Any]:
    """Write the files that routers upload on the last day of the lake, and measure their size."""
    made = MadeLake(Path(folder), decisions, days)
    with clock() as figures:
        new = made.write_arrivals()
    records = [file for file in Path(folder).rglob("*.parquet") if file.relative_to(folder).parts[0] != "sums"]
    size = sum(file.stat().st_size for file in records)
    return {**figures, "bytes": size, "new": new}


def compact_day(folder: str) -> dict[str, Any]:
    from features.collect.compact import compact

    made = MadeLake(Path(folder), 0)
    files = hours = 0
    with clock() as figures:
        for hour in made.last_day:
            done = compact(made.lake, hour + timedelta(hours=1, minutes=20))
            files, hours = files + done.files, hours + len(done.hours)
    return {**figures, "files": files, "hours": hours, "hours_open": len(made.lake.arrived("decision"))}


def make_hour(folder: str, decisions: int) -> dict[str, Any]:
    """Write the files that routers upload in the lake's last hour."""
    made = MadeLake(Path(folder), decisions * 24 * 28)
    with clock() as figures:
        new = made.write_last_hour()
    return {**figures, "users": made.users, "new": new}


def compact_hour(folder: str) -> dict[str, Any]:
    """Compact the lake's last hour. `scratch_mib` is the peak size of temporary files."""
    from features.collect.compact import compact

    tempfile.tempdir = scratch = tempfile.mkdtemp(dir=Path(folder).parent)
    ended, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            # The compaction may delete a file during this call.
            with suppress(FileNotFoundError):
                peak = max(peak, sum(file.stat().st_size for file in Path(scratch).rglob("*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with clock() as figures:
            done = compact(MadeLake(Path(folder), 0).lake, END + timedelta(minutes=20))
    finally:
        ended.set()
        watcher.join()
        shutil.rmtree(scratch)
    return {**figures, "files": done.files, "hours": len(done.hours), "scratch_mib": peak / 2**20}


def judge_rows(folder: str, days_before: int = 0) -> dict[str, Any]:
    """Measure the search for decisions from which a training can learn, as of `days_before` days before the end."""
    from features.collect.training_log import learnable

    with clock() as figures, _opened() as opened:
        found = learnable(folder, SPEC.replace(outcome_hours=24.0), END - timedelta(days=days_before))
    return {**figures, "decisions": found.decisions, "opportunities": found.opportunities, "files": len(opened)}


def measure_day(folder: str) -> dict[str, Any]:
    from monitoring.decision_log import DecisionLog, Period
    from monitoring.watch.measures import measure
    from mtorl.log.gain import Gain

    day = Period(END - timedelta(days=1), END)
    with clock() as figures, _opened() as opened:
        found = measure(DecisionLog.of(folder, day), Gain.of_spec("click"), ("click", "conversion"), CHANNELS)
    return {**figures, "decisions": found.decisions, "files": len(opened)}


def look_once(folder: str) -> dict[str, Any]:
    from monitoring.decision_log import DecisionLog
    from monitoring.experiments.findings import findings_of
    from mtorl.experiment.experiment import Experiment
    from mtorl.log.gain import Gain

    experiment = Experiment.from_dict(definition(LOOKED_AT))
    since = (END - timedelta(days=28)).timestamp()
    with clock() as figures, _opened() as opened:
        findings = findings_of(
            DecisionLog.of(folder), experiment, Gain.of_spec("click"), since, END.timestamp(), spend=()
        )
    assert findings is not None and findings.verdict is not None, "there is nothing to look at"
    users = sum(sum(of.values()) for of in findings.verdict["users_of_stages"].values())
    sums = [file for file in Path(folder, "sums").rglob("*.parquet")]
    kept = {"sums": len(sums), "sums_bytes": sum(file.stat().st_size for file in sums)}
    return {**figures, **kept, "users": users, "files": len(opened), "verdict": findings.verdict["verdict"]}


def definition(name: str, **changes: Any) -> dict[str, Any]:
    """Return the definition of an experiment without model servers, because its arms are fixed rules."""
    rules = (("incumbent", CHANNELS[0]), ("challenger", CHANNELS[1]))
    made: dict[str, Any] = {"name": name, "enabled": True, "salt": "s", "unit": "user_id", "layer": "default"}
    made |= {"stage": "50%", "default_channel": CHANNELS[0], "alpha": 0.05, "min_runtime_hours": 0}
    made |= {"metrics": {"primary": "click_per_decision"}, "owner": "benchmarks"}
    made |= {"budgets": [{"campaign": "*", "channel": "*", "amount": 1e6}]}
    arms = [{"name": arm, "weight": 0.5, "policy": [{"channel": channel}]} for arm, channel in rules]
    return {**made, "arms": arms, **changes}


@contextmanager
def _opened() -> Iterator[set[str]]:
    """Yield a set that collects the names of all lake files opened in the block, including cached sums."""
    from monitoring.verdict.stored_sums import _Sums
    from mtorl.runtime.duckdb_files import LakeFiles

    files, fetch, open_ = set[str](), _Sums._fetch, LakeFiles._open

    def fetched(sums: Any, file: Any) -> Path:
        files.add(file.name)
        return fetch(sums, file)

    def opened(lake: Any, path: str, *arguments: Any, **named: Any) -> Any:
        files.add(path)
        return open_(lake, path, *arguments, **named)

    with patch.object(_Sums, "_fetch", fetched), patch.object(LakeFiles, "_open", opened):
        yield files

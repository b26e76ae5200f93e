"""Compares MTORL, its ablations and all baselines on the same data and metrics: `mtorl benchmark paper`.

A second call continues with the unfinished jobs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtorl.comparison import jobs
from mtorl.comparison.jobs import Job
from mtorl.network.parallel import worker_processes
from mtorl.runtime.errors import InputError
from pipelines.local import code_version

OnJob = Callable[[float, float, str], None]
"""Type of a function that is called when a job ends, with the number of finished jobs, the number of all jobs, and the
label of the job that ended."""


@dataclass(frozen=True)
class PaperConfig:
    """Settings of a comparison.

    Attributes:
        logs: Path of each raw log, by the name of its data set. If the path is empty, the log is simulated.
        repeats: Number of repetitions of each job, with different random seeds.
        methods: Methods to compare. If empty, all methods are compared.
        users: Number of users to simulate, or to keep from each log. 0 keeps all users.
    """

    logs: Mapping[str, str]
    root: Path
    repeats: int = jobs.REPEATS
    workers: int = 2
    methods: tuple[str, ...] = field(default=())
    users: int = 0


def run_paper(config: PaperConfig, on_job: OnJob) -> dict[str, Any]:
    """Run all unfinished jobs, and return the figures of `mtorl.comparison.jobs.collect`."""
    settings, settings_file = _settings(config), config.root / "settings.json"
    earlier = json.loads(settings_file.read_text()) if settings_file.exists() else settings
    if differing := ", ".join(name for name in settings if earlier.get(name) != settings[name]):
        raise InputError(f"{config.root} is from a comparison with other {differing}; delete it, or change --root")
    for dataset, log in config.logs.items():
        prepare(dataset, log, config)
    # After an invalid log, the user can call again with other settings.
    settings_file.parent.mkdir(parents=True, exist_ok=True)
    settings_file.write_text(json.dumps(settings, indent=1) + "\n")
    todo = jobs.jobs(list(config.logs), config.repeats, config.methods)
    done = 0
    on_job(done, len(todo), "")
    # The numerical libraries read these variables when they are loaded.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with worker_processes(config.workers) as pool:
        for stage in ([job for job in todo if job.method != "score"], [job for job in todo if job.method == "score"]):
            waiting: dict[Future[None], Job] = {pool.submit(jobs.run, job, config.root): job for job in stage}
            for future in as_completed(waiting):
                future.result()
                done += 1
                on_job(done, len(todo), waiting[future].label)
    return jobs.collect(todo, config.root)


def _settings(config: PaperConfig) -> dict[str, Any]:
    """Return the settings that all results in one table must have in common."""
    return {
        "logs": {name: str(Path(log).resolve()) if log else "" for name, log in config.logs.items()},
        "users": config.users,
        "code": code_version(["mtorl"]),
    }


def prepare(dataset: str, log: str, config: PaperConfig) -> None:
    """Build the windows of a log in the working folder, unless they already exist."""
    from features.ingest.log_folder import RawLog, ingest
    from features.offline.store import build_training_data
    from features.sequences.builder import build_windows
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.touchpoints import DATASET_FILE

    folder = config.root / "data" / dataset
    if (folder / "windows" / "manifest.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    ingest(RawLog(log, dataset, "quarantine", config.users), folder / "log", folder / "quarantine.csv")
    if DatasetSpec.load(folder / "log" / DATASET_FILE).features:
        build_training_data(folder / "log", folder / "features", folder / "windows")
    else:
        build_windows(folder / "log", folder / "windows")

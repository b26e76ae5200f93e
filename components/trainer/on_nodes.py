"""Train on several nodes: hand the windows over, have Kubeflow Trainer run a TrainJob, take the artifact it leaves.

    artifact = train_on_nodes(task, size, pods, shared="/mnt/mtorl/shared/0a1b")

The job is named after its training, so a step that is tried again finds the job that its first attempt has left, and
goes on waiting for it. A job that is over, or that nobody waits for any more, is removed: at the end, after SIGTERM,
with the step's pod (which owns it), and at its deadline.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.trainer.train_job import NAME, POD_NAME, POD_UID, Owner, Pods, state_of, train_job, trainer_status
from components.trainer.train_jobs import NoAnswer, TrainJobs
from mtorl.artifact.artifact import Artifact, load
from mtorl.fitting.processes import Reports, ended_by_sigterm
from mtorl.fitting.size import Size
from mtorl.fitting.task import FitTask
from mtorl.network.parallel import TrainingFailed
from mtorl.runtime.files import remove, replacing

_LOOK_SECONDS = 5.0
_AWAY_SECONDS = 600.0  # that the API server may be away; the job goes on meanwhile
_LATE_SECONDS = 120.0  # after its deadline, that Trainer may take to say so
_LOG = logging.getLogger(__name__)


def train_on_nodes(
    task: FitTask,
    size: Size,
    pods: Pods,
    shared: str,
    jobs: TrainJobs | None = None,
    look_seconds: float = _LOOK_SECONDS,
) -> Artifact:
    """Train as a TrainJob, and wait for it.

    Args:
        task: What to train.
        size: Nodes, and processes on each.
        pods: What each pod gets.
        shared: Folder on the volume of all pods, of this training alone.
        jobs: Of which namespace; by default that in which this process runs.
        look_seconds: How often to look.

    Raises:
        TrainingFailed: it can't use what it was given, has failed, or can't be started; the message says why.
    """
    if not Path(shared).is_absolute():
        raise TrainingFailed("a training on several nodes needs a volume that they share (volume is empty)")
    folder = Path(shared)
    if not (folder / "windows").exists():  # a step's inputs are in its pod
        with replacing(folder / "windows") as unfinished:
            shutil.copytree(task.windows, unfinished)
    there = FitTask(
        str(folder / "windows"),
        str(folder / "model"),
        task.config,
        task.budget_share,
        task.checkpoint,
        task.log,
    )
    there.save(folder / "task.json")
    if not (folder / "model").exists():  # a step that was killed may have left it
        reports = Reports(folder / "progress.jsonl")
        job = train_job(f"{NAME}-{folder.name}", size, pods, str(folder / "task.json"), str(reports.path), _this_pod())
        with ended_by_sigterm():
            _Following(jobs or TrainJobs(), job, reports, look_seconds).to_its_end()
        if not (folder / "model").exists():
            raise TrainingFailed(
                f"TrainJob {job['metadata']['name']} is complete and has left no {folder / 'model'}: is the claim "
                f"{pods.claim} the volume of this step, in access mode ReadWriteMany?"
            )
    with replacing(Path(task.out)) as unfinished:
        shutil.copytree(folder / "model", unfinished)
    remove(folder)
    return load(Path(task.out))


def _this_pod() -> Owner | None:
    name, uid = os.environ.get(POD_NAME), os.environ.get(POD_UID)
    return Owner(name, uid) if name and uid else None


class _Following:
    """One TrainJob, from its start to its end."""

    def __init__(self, jobs: TrainJobs, job: Mapping[str, Any], reports: Reports, look_seconds: float) -> None:
        self.jobs, self.job, self.reports, self.look = jobs, job, reports, look_seconds
        self.name: str = job["metadata"]["name"]
        seconds = job["spec"].get("activeDeadlineSeconds")
        self.until = time.monotonic() + seconds + _LATE_SECONDS if seconds else float("inf")
        self.answered = time.monotonic()
        self.unfinished = False  # whether it has been seen before its end
        self.told: dict[str, str] = {}  # problems of pods
        self.first: tuple[datetime, float] | None = None  # report of progress, and when
        self.shown: tuple[float, float, str] | None = None

    def to_its_end(self) -> None:
        """Start it, or go on waiting for one that is there, until it is complete.

        Raises:
            TrainingFailed: see `train_on_nodes`.
        """
        self.reports.skip()
        try:
            while not self._is_over():
                self.reports.tell()
                if time.monotonic() > self.until:
                    raise TrainingFailed(f"TrainJob {self.name} has not ended by its deadline, and nobody has ended it")
                time.sleep(self.look)
            self.reports.tell()
        finally:
            try:
                self.jobs.delete(self.name)
            except (NoAnswer, TrainingFailed) as error:
                _LOG.warning("TrainJob %s stays: %s", self.name, error)

    def _is_over(self) -> bool:
        try:
            over = self._look()
        except NoAnswer as error:
            if time.monotonic() - self.answered > _AWAY_SECONDS:
                raise TrainingFailed(str(error)) from None
            _LOG.warning("%s; asks again", error)
            return False
        self.answered = time.monotonic()
        return over

    def _look(self) -> bool:
        found = self.jobs.get(self.name)
        if found is None:
            if self.jobs.create(self.job):
                self.unfinished = True
                _LOG.info("TrainJob %s begins, on %d nodes", self.name, self.job["spec"]["trainer"]["numNodes"])
            return False
        if "deletionTimestamp" in found["metadata"]:
            return False
        state = state_of(found)
        if (state.complete or state.failed) and not self.unfinished:
            self.jobs.delete(self.name)  # of an attempt that nobody has cleared up; another one uses its checkpoint
            return False
        self.unfinished = True
        if state.failed:
            self.reports.tell()  # the cause, if processes know it
            self._tell_problems(with_logs=True)
            pods = "; ".join(self.told.values())
            raise TrainingFailed(f"TrainJob {self.name}: {state.words}{f' ({pods})' if pods else ''}")
        if self.reports.last is None:
            self._tell_problems()
        elif self.reports.last != self.shown:
            self._show(self.reports.last)
        return state.complete

    def _show(self, last: tuple[float, float, str]) -> None:
        now = datetime.now(UTC)
        self.first = self.first or (now, last[0])
        self.shown = last
        with suppress(NoAnswer, TrainingFailed):  # for people to look at; the training goes on without
            self.jobs.show(self.name, trainer_status(*last, now, self.first))

    def _tell_problems(self, with_logs: bool = False) -> None:
        with suppress(NoAnswer, TrainingFailed):
            problems = self.jobs.problems(self.name)
            for pod, problem in problems.items():
                if self.told.get(pod) != problem:
                    _LOG.info("%s", problem)
                if with_logs and (log := self.jobs.log(pod)):
                    _LOG.info("the last lines of %s:\n%s", pod, log)
            self.told = problems

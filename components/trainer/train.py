"""Starts a TrainJob of Kubeflow Trainer, waits until its pods have trained a model, and copies the model.

The name of the job is fixed, so that a retry of the step finds the job of the first attempt.
"""

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from components import messages
from components.trainer import train_job
from mtorl.artifact.artifact import Artifact, load
from mtorl.fitting.worker import FitTask
from mtorl.network.parallel import TrainingFailed
from mtorl.runtime import progress
from mtorl.runtime.files import remove, replacing
from serving.kubernetes_api import Conflict, KubernetesApi, Refused, Unanswered

_POLL_SECONDS = 5.0
# The retries take ten minutes, in which the job continues without the API server.
_RETRIES = 11
_LINES = 40
_POD_LABEL = "jobset.sigs.k8s.io/jobset-name"
_LOG = logging.getLogger(__name__)


def train_in_pods(task: FitTask, size: train_job.Size, pods: train_job.Pods, shared: str) -> Artifact:
    """Train as a TrainJob, and return the artifact after the job has completed.

    Args:
        shared: Folder for this training only, on the volume that all pods mount.

    Raises:
        TrainingFailed: The job can't be started, rejects its input, or fails.
    """
    folder = Path(shared)
    model = folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    replace(task, out=str(model)).save(folder / "task.json")
    # A killed attempt of the step may have left a finished model.
    if not model.exists():
        reports = folder / "progress.jsonl"
        pod, uid = os.environ.get(train_job.POD_NAME), os.environ.get(train_job.POD_UID)
        owner, name = (pod, uid) if pod and uid else None, f"{train_job.NAME}-{folder.name}"
        job = train_job.train_job(name, size, pods, str(folder / "task.json"), str(reports), owner)
        with _ended_by_sigterm():
            try:
                _run(KubernetesApi(retries=_RETRIES), job, reports)
            except Refused as error:
                why = messages.NO_TRAINER(error=error.args[0]) if error.status == 404 else error.args[0]
                raise TrainingFailed(why) from None
            except Unanswered as error:
                raise TrainingFailed(*error.args) from None
        if not model.exists():
            raise TrainingFailed(messages.NO_MODEL(job=job["metadata"]["name"], path=model, claim=train_job.VOLUME))
    with replacing(Path(task.out)) as unfinished:
        shutil.copytree(model, unfinished)
    remove(folder)
    return load(Path(task.out))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143), so that the block can delete the job before it exits."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(api: KubernetesApi, job: Mapping[str, Any], reports: Path) -> None:
    """Create a TrainJob or find the one of an earlier attempt, wait for its end, and delete it."""
    name: str = job["metadata"]["name"]
    offset = earlier = reports.stat().st_size if reports.exists() else 0
    # True after this process has created the job or has seen that it runs.
    unfinished = False
    logged: dict[str, str] = {}
    try:
        while True:
            found = api.get(train_job.PLURAL, name)
            state = train_job.state_of(found or {})
            if found is None:
                with suppress(Conflict):
                    api.create(train_job.PLURAL, job)
                    unfinished = True
                    _LOG.info("TrainJob %s starts, on %d nodes", name, job["spec"]["trainer"]["numNodes"])
            elif "deletionTimestamp" in found["metadata"]:
                pass
            elif state.over and not unfinished:
                with suppress(Conflict):
                    # An earlier attempt left this ended job. The new job continues from its checkpoint.
                    api.delete(train_job.PLURAL, name)
            else:
                unfinished = True
                offset = _relay(reports, offset)
                if state.failed or offset == earlier:
                    logged = _log_problems(api, name, logged, with_logs=bool(state.failed))
                if state.failed:
                    pods = "; ".join(logged.values())
                    raise TrainingFailed(messages.JOB_FAILED(job=name, why=f"{state.failed}{pods and f' ({pods})'}"))
                if state.over:
                    return
            time.sleep(_POLL_SECONDS)
    finally:
        try:
            api.delete(train_job.PLURAL, name)
        except (Conflict, Refused, Unanswered) as error:
            _LOG.warning("TrainJob %s was not removed: %s", name, error)


def _log_problems(api: KubernetesApi, name: str, logged: dict[str, str], with_logs: bool) -> dict[str, str]:
    problems = dict[str, str]()
    # Use a client without retries, because these requests only collect messages for the log.
    api = KubernetesApi(api.namespace)
    # A training also works without the permission to read pods.
    with suppress(Refused, Unanswered):
        pods = api.list("pods", f"{_POD_LABEL}={name}")
        problems = {pod["metadata"]["name"]: problem for pod in pods if (problem := train_job.problem_of(pod))}
        for pod, problem in problems.items():
            if logged.get(pod) != problem:
                _LOG.info("%s", problem)
        for pod in problems if with_logs else ():
            _LOG.info("last lines of %s:\n%s", pod, api.log(pod, _LINES))
    return problems


def _relay(reports: Path, offset: int) -> int:
    """Report the job's progress after `offset`, and return the new offset."""
    events, offset = progress.read(reports, offset)
    for event in events:
        if "input_error" in event:
            raise TrainingFailed(str(event["input_error"]))
        progress.report(float(str(event["done"])), float(str(event["total"])), str(event["note"]))
    return offset

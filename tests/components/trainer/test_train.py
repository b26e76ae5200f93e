"""Tests of a pipeline step that runs a TrainJob, with local processes for pods."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from components import messages
from components.trainer.train import train_in_pods
from components.trainer.train_job import POD_NAME, POD_UID, RESTARTABLE, Pods, Size
from mtorl.artifact.artifact import Artifact, load
from mtorl.fitting.worker import FitTask
from mtorl.network.parallel import TrainingFailed
from mtorl.network.training import TrainConfig
from mtorl.runtime import progress
from mtorl.runtime.message import Words
from serving.messages import FORBIDDEN, KUBERNETES_REFUSES
from tests.components.trainer.trainer_cluster import Object, TrainerCluster
from tests.messages import raises
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

NAME = "mtorl-train-0a1b"
TWO = Size(nodes=2, processes=1)
CONFIG = TrainConfig(epochs=4, patience=4, batch_size=8, hidden=8, heads=2, checkpoint_batches=2, device="cpu")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerCluster]:
    monkeypatch.setattr("components.trainer.train._POLL_SECONDS", 0.1)
    with TrainerCluster() as there:
        there.use(monkeypatch)
        yield there


@pytest.fixture
def task(tmp_path: Path) -> FitTask:
    write_windows_folder(tmp_path / "windows", STEPS)
    checkpoint = str(tmp_path / "volume" / "checkpoints" / "0a1b.pt")
    return FitTask(str(tmp_path / "windows"), str(tmp_path / "model"), CONFIG, 0.5, checkpoint)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "shared" / "0a1b"


def pods() -> Pods:
    return Pods(2, 0, "train:1", "/mnt/mtorl", "1", "2", "4Gi", seconds=3600)


def train(task: FitTask, shared: Path) -> Artifact:
    return train_in_pods(task, TWO, pods(), str(shared))


def learned(artifact: Artifact) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = artifact.metrics["history"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def failing(cluster: TrainerCluster) -> None:
    cluster.play = lambda job: cluster.end(job, "Failed", "FailedJobs", "jobset failed")


def test_two_nodes_train_like_two_processes_and_a_killed_one_is_restarted(
    cluster: TrainerCluster, task: FitTask, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torchrun(replace(task, checkpoint="", out=f"{task.out}-whole"), tmp_path / "task.json")
    cluster.play = cluster.run_pods
    monkeypatch.setenv(POD_NAME, "step-1")
    monkeypatch.setenv(POD_UID, "u-1")
    killed = threading.Thread(target=_kill_one, args=(task,))
    killed.start()
    reports: list[str] = []
    with progress.listen(lambda done, total, note: reports.append(note)):
        artifact = train(task, shared)
    killed.join()
    assert learned(artifact) == learned(whole) and artifact.metrics["members"] == whole.metrics["members"]
    assert len(cluster.processes) >= 4, "each node must start twice"
    (made,) = cluster.created
    assert made["metadata"]["name"] == NAME
    assert made["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "step-1", "uid": "u-1"}]
    assert reports[-1] == "thresholds of drift" and any(note.startswith("validation loss") for note in reports)
    assert not checkpointed(task), "a successful training leaves no checkpoint"
    assert cluster.deleted == [NAME] and not shared.exists()


def torchrun(task: FitTask, file: Path) -> Artifact:
    task.save(file)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, "-m", "mtorl.fitting.worker", str(file)], env={**os.environ, **RESTARTABLE}, check=True)
    return load(Path(task.out))


def checkpointed(task: FitTask) -> bool:
    return Path(f"{task.checkpoint}.member-0").exists()


def _kill_one(task: FitTask) -> None:
    eventually(lambda: checkpointed(task), 300)
    eventually(lambda: _workers(psutil.Process()))[-1].send_signal(signal.SIGKILL)


def _workers(of: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in of.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "mtorl.fitting.worker" in words and "torch.distributed.run" not in words:
            found.append(child)
    return found


def test_input_that_pods_can_not_use_stops_the_job(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    cluster.play = cluster.run_pods
    Path(task.checkpoint).parent.mkdir(parents=True)
    Path(f"{task.checkpoint}.member-0").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingFailed, match=r"0a1b\.pt\.member-0"):
        train(task, shared)
    assert cluster.deleted == [NAME] and len(cluster.processes) == 2, "nothing may be retried"


def test_a_failed_job_is_reported_with_its_log(
    cluster: TrainerCluster, task: FitTask, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing(cluster)
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = {"phase": "Failed", "containerStatuses": [{"state": ended}]}
    cluster.pods = [{"metadata": {"name": "node-0-1"}, "status": status}]
    cluster.logs["node-0-1"] = "loads the windows\nKilled\n"
    why = "FailedJobs: jobset failed (node-0-1: OOMKilled, exit code 137)"
    with caplog.at_level(logging.INFO), raises(TrainingFailed, messages.JOB_FAILED, job=NAME, why=why):
        train(task, shared)
    assert cluster.logs["node-0-1"].strip() in caplog.text
    assert cluster.deleted == [NAME]


def test_it_logs_waits(cluster: TrainerCluster, task: FitTask, shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient gpu"}
    cluster.pods = [{"metadata": {"name": "node-0-0"}, "status": {"conditions": [condition]}}]

    def later(job: Object) -> None:
        eventually(lambda: cluster.asked.count("list") > 3)
        cluster.end(job, "Failed", "DeadlineExceeded", "TrainJob exceeded its deadline")

    cluster.play = later
    with caplog.at_level(logging.INFO), pytest.raises(TrainingFailed, match=r"DeadlineExceeded: .*Insufficient gpu"):
        train(task, shared)
    assert caplog.text.count(condition["message"]) == 1, "report each wait only once"


def test_a_retried_step_continues_its_first_attempt(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    running: Object = {"metadata": {"name": NAME}, "spec": {}}
    cluster.begin(running)

    def end() -> None:
        eventually(lambda: cluster.asked.count("get") > 2)
        cluster.end(running, "Failed", "FailedJobs", "its own")

    over = threading.Thread(target=end)
    over.start()
    with pytest.raises(TrainingFailed, match="its own"):
        train(task, shared)
    over.join()
    assert len(cluster.created) == 1
    stale: Object = {"metadata": {"name": NAME}, "spec": {}}
    cluster.begin(stale)
    cluster.end(stale, "Failed", "FailedJobs", "of before")
    failing(cluster)
    with pytest.raises(TrainingFailed, match="jobset failed"):
        train(task, shared)
    assert len(cluster.created) == 3 and cluster.created[-1]["spec"]["trainer"]["numNodes"] == 2
    there = replace(task, out=str(shared / "model"), config=replace(CONFIG, epochs=1)).run()
    assert there is not None
    assert train(task, shared).digest == there.digest and len(cluster.created) == 3 and not shared.exists()


@pytest.mark.parametrize(("status", "words"), [(403, FORBIDDEN), (404, messages.NO_TRAINER), (422, KUBERNETES_REFUSES)])
def test_a_refusal_by_the_api_server_is_reported(
    status: int, words: Words, cluster: TrainerCluster, task: FitTask, shared: Path
) -> None:
    cluster.refused = {"create": status}
    with raises(TrainingFailed, words):
        train(task, shared)


def test_a_job_without_a_model_names_its_path(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    def later(job: Object) -> None:
        eventually(lambda: cluster.asked.count("get") > 2)
        cluster.end(job, "Complete")

    cluster.play = later
    cluster.refused = {"list": 403}  # a failed listing must not stop the training
    with raises(TrainingFailed, messages.NO_MODEL, job=NAME, path=shared / "model", claim="mtorl-data"):
        train(task, shared)


def test_sigterm_removes_the_job(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    def stop(job: Object) -> None:
        eventually(lambda: cluster.asked.count("get") > 1)
        os.kill(os.getpid(), signal.SIGTERM)

    cluster.play = stop
    before = signal.getsignal(signal.SIGTERM)  # another test may have installed a handler
    with pytest.raises(SystemExit) as ended:
        train(task, shared)
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert cluster.deleted == [NAME] and (shared / "task.json").exists()
    assert not (shared / "windows").exists(), "the shared snapshot must be removed"

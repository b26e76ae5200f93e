"""The step's side of a TrainJob: an API server that plays Trainer's part, and pods that are processes here."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.trainer.on_nodes import train_on_nodes
from components.trainer.train_job import POD_NAME, POD_UID, Pods
from components.trainer.train_jobs import TrainJobs
from mtorl.artifact.artifact import Artifact
from mtorl.fitting.processes import run_in_processes
from mtorl.fitting.size import Size
from mtorl.fitting.task import FitTask
from mtorl.network.parallel import TrainingFailed
from mtorl.runtime import progress
from tests.components.trainer.trainer_cluster import JOBS, PODS, Object, TrainerCluster
from tests.mtorl.fitting.worker_processes import CONFIG, checkpointed, eventually, learned, workers
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

NAME = "mtorl-train-0a1b"
TWO = Size(nodes=2, processes=1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerCluster]:
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


def pods(**changes: Any) -> Pods:
    given = Pods(2, "train:1", "mtorl-data", "/mnt/mtorl", 10001, "", "1", "2", "4Gi", seconds=3600)
    return replace(given, **changes)


def train(task: FitTask, shared: Path, **changes: Any) -> Artifact:
    return train_on_nodes(task, TWO, pods(**changes), str(shared), TrainJobs("mine"), look_seconds=0.1)


def failing(cluster: TrainerCluster) -> None:
    cluster.play = lambda job: cluster.end(job, "Failed", "FailedJobs", "jobset failed")


def test_two_nodes_train_what_two_processes_do_and_a_killed_one_is_started_again(
    cluster: TrainerCluster, task: FitTask, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_in_processes(replace(task, checkpoint="", out=f"{task.out}-whole"), 2)
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
    assert len(cluster.processes) >= 4, "each node was started twice"
    (made,) = cluster.created
    assert made["metadata"]["name"] == NAME
    assert made["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "step-1", "uid": "u-1"}]
    assert reports[-1] == "thresholds of drift" and cluster.shown
    assert 0 < cluster.shown[0]["progressPercentage"] <= 100 and cluster.shown[0]["lastUpdatedTime"].endswith("Z")
    assert any("validation_loss" in str(status.get("metrics")) for status in cluster.shown)
    assert cluster.deleted == [NAME] and not shared.exists()


def _kill_one(task: FitTask) -> None:
    eventually(lambda: checkpointed(task))
    eventually(lambda: workers(psutil.Process()))[-1].send_signal(signal.SIGKILL)


def test_what_the_pods_cannot_use_ends_the_job_at_once(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    cluster.play = cluster.run_pods
    Path(task.checkpoint).parent.mkdir(parents=True)
    Path(f"{task.checkpoint}.member-0").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingFailed, match=r"0a1b\.pt\.member-0: cannot be read"):
        train(task, shared)
    assert cluster.deleted == [NAME] and len(cluster.processes) == 2, "nothing was tried again"


def test_a_job_that_failed_is_words_and_its_log(
    cluster: TrainerCluster, task: FitTask, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing(cluster)
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = {"phase": "Failed", "containerStatuses": [{"state": ended}]}
    cluster.pods = [{"metadata": {"name": "node-0-1"}, "status": status}]
    cluster.logs["node-0-1"] = "loads the windows\nKilled\n"
    with caplog.at_level(logging.INFO), pytest.raises(TrainingFailed) as error:
        train(task, shared)
    assert str(error.value) == (f"TrainJob {NAME}: FailedJobs: jobset failed (node-0-1: OOMKilled, exit code 137)")
    assert "the last lines of node-0-1:\nloads the windows\nKilled" in caplog.text
    assert cluster.deleted == [NAME]


def test_a_pod_that_waits_is_said(
    cluster: TrainerCluster, task: FitTask, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient gpu"}
    cluster.pods = [{"metadata": {"name": "node-0-0"}, "status": {"conditions": [condition]}}]

    def later(job: Object) -> None:
        eventually(lambda: [one for one in cluster.asked if one == ("GET", PODS)][3:])
        cluster.end(job, "Failed", "DeadlineExceeded", "TrainJob exceeded its deadline")

    cluster.play = later
    with caplog.at_level(logging.INFO), pytest.raises(TrainingFailed, match=r"DeadlineExceeded: .*3 Insufficient gpu"):
        train(task, shared)
    assert caplog.text.count("node-0-0: no node for it: 0/3 nodes are available") == 1, "once, not at each look"


def test_a_step_that_is_tried_again_takes_what_its_first_attempt_has_left(
    cluster: TrainerCluster, task: FitTask, shared: Path
) -> None:
    """A job that runs is waited for, one that is over is made anew, and a model that is there is taken."""
    running: Object = {"metadata": {"name": NAME}, "spec": {}}
    cluster.begin(running)
    over = threading.Thread(
        target=lambda: (
            eventually(lambda: [one for one in cluster.asked if one == ("GET", f"{JOBS}/{NAME}")][2:]),
            cluster.end(running, "Failed", "FailedJobs", "its own"),
        )
    )
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
    there = run_in_processes(replace(task, out=str(shared / "model"), config=replace(CONFIG, epochs=1)), 1)
    assert train(task, shared).digest == there.digest and len(cluster.created) == 3 and not shared.exists()


def test_an_api_server_that_is_away_for_a_while_is_asked_again(
    cluster: TrainerCluster, task: FitTask, shared: Path
) -> None:
    cluster.broken = {("GET", JOBS): [503, 500, 429], ("POST", JOBS): [503]}
    failing(cluster)
    with pytest.raises(TrainingFailed, match="jobset failed"):
        train(task, shared)


@pytest.mark.parametrize(
    ("verb", "status", "words"),
    [
        ("POST", 403, "403 POST is not allowed; give the run's .* manifests/pipelines/platform/access.yaml"),
        ("POST", 404, "this cluster knows no TrainJobs: install Kubeflow Trainer"),
        ("POST", 422, "422 POST is not allowed"),
    ],
)
def test_what_the_api_server_refuses_is_an_error_with_words(
    verb: str, status: int, words: str, cluster: TrainerCluster, task: FitTask, shared: Path
) -> None:
    cluster.broken = {(verb, JOBS): [status]}
    with pytest.raises(TrainingFailed, match=words):
        train(task, shared)


def test_without_the_right_to_say_how_far_it_is_it_trains_all_the_same(
    cluster: TrainerCluster, task: FitTask, shared: Path
) -> None:
    cluster.broken = {("PATCH", JOBS): [403] * 1000, ("GET", PODS): [403] * 1000}
    cluster.play = cluster.run_pods
    quick = replace(task, config=replace(CONFIG, epochs=1))
    assert len(learned(train(quick, shared))) == 1 and not cluster.shown


def test_a_job_that_leaves_nothing_says_where_to_look(cluster: TrainerCluster, task: FitTask, shared: Path) -> None:
    def later(job: Object) -> None:
        eventually(lambda: [one for one in cluster.asked if one == ("GET", f"{JOBS}/{NAME}")][2:])
        cluster.end(job, "Complete")

    cluster.play = later
    with pytest.raises(TrainingFailed, match=r"has left no .*/model: is the claim mtorl-data the volume of this step"):
        train(task, shared)


def test_a_volume_is_needed(task: FitTask) -> None:
    with pytest.raises(TrainingFailed, match="needs a volume"):
        train_on_nodes(task, TWO, pods(), "")


def test_sigterm_removes_the_job(cluster: TrainerCluster, task: FitTask, shared: Path, tmp_path: Path) -> None:
    task.save(tmp_path / "task.json")
    code = f"""
import sys
from pathlib import Path
from kubernetes import client, config
there = client.Configuration()
there.host = "http://127.0.0.1:{cluster.server_address[1]}"
client.Configuration.set_default(there)
config.load_kube_config = lambda: None
from components.trainer.on_nodes import train_on_nodes
from components.trainer.train_job import Pods
from components.trainer.train_jobs import TrainJobs
from mtorl.fitting.size import Size
from mtorl.fitting.task import FitTask
train_on_nodes(FitTask.load(Path(sys.argv[1])), Size(2, 1), Pods.of(sys.argv[2]), sys.argv[3], TrainJobs("mine"))
"""
    step = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "task.json"), pods().text(), str(shared)])
    eventually(lambda: cluster.created or step.poll() is not None)
    step.send_signal(signal.SIGTERM)
    assert step.wait() == 143
    assert cluster.deleted == [NAME] and (shared / "windows").exists(), "the next attempt need not copy them again"

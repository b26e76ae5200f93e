"""Training on two nodes with Kubeflow Trainer: from a step's pod to its artifact, with one pod killed.

Needs a node that runs pods, the images in $IMAGES, and Kubeflow Trainer 2.2 or later with its runtimes. About five
minutes on two CPUs.
"""

import re

import pytest
import yaml

from components.trainer.train_job import GROUP, PLURAL, POD_NAME, POD_UID, VERSION
from tests.cluster.conftest import Installation
from tests.cluster.kfp_runs import platform, volume_pod
from tests.cluster.kubectl import Object, kubectl, listed, serves, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RUNTIME, ACCOUNT = "torch-distributed", "pipeline-runner"
STEP = """
import logging
import sys
from pathlib import Path
from components.trainer.train import train_in_pods
from components.trainer.train_job import Pods, Size
from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from mtorl.fitting.worker import FitTask
from mtorl.network.training import TrainConfig
logging.basicConfig(level=logging.INFO)
(image,) = sys.argv[1:]
with open_engine() as engine:
    build(engine, RawLog("", "simulator", "fail", 4000), Path("/mnt/mtorl/built"))
config, checkpoint = TrainConfig(epochs=20, patience=20), "/mnt/mtorl/checkpoints/0a1b.pt"
task = FitTask("/mnt/mtorl/built/windows", "/tmp/model", config, 0.6, checkpoint)
pods = Pods(2, 0, image, "/mnt/mtorl", "100m", "1", "1500Mi", seconds=1200)
model = train_in_pods(task, Size(nodes=2, processes=1), pods, "/mnt/mtorl/shared/0a1b")
print("trained", model.digest)
"""


def step_pod(image: str) -> Object:
    """Return a pod like that of a pipeline step: the account of runs, the volume, and its own name."""
    names = {POD_NAME: "metadata.name", POD_UID: "metadata.uid"}
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in names.items()]
    return volume_pod("step", image, ["python", "-c", STEP, image], {"env": env}, serviceAccountName=ACCOUNT)


def test_two_nodes_train_and_a_killed_one_is_started_again(installation: Installation, images: list[Object]) -> None:
    if not (serves(f"{GROUP}/{VERSION}") and kubectl("get", "clustertrainingruntime", RUNTIME, "--ignore-not-found")):
        pytest.skip(f"the cluster of KUBECONFIG has no Kubeflow Trainer with its runtime {RUNTIME}")
    (train,) = [one for one in images if one["name"].endswith("/train")]
    version = f"@{train['digest']}" if "digest" in train else f":{train['newTag']}"
    image, ns = train.get("newName", train["name"]) + version, installation.namespace

    def job() -> Object:
        found = listed(ns, f"{PLURAL}.{GROUP}")
        return found[0] if found else {}

    def nodes() -> list[str]:
        pods = listed(ns, "pod", "app.kubernetes.io/name=mtorl-train")
        return sorted(pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running")

    def printed() -> str:
        return kubectl("-n", ns, "logs", "step", "--tail=60", allowed=(0, 1))

    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}
    wanted = [account, *yaml.safe_load_all(platform(ns)), step_pod(image)]
    kubectl("-n", ns, "apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))

    def progress() -> int:
        return max(map(int, re.findall(r"(\d+) % validation loss", printed())), default=0)

    wait_until("progress in the step's log", lambda: 5 < progress() < 60, 600, printed)
    first = nodes()
    assert job()["spec"]["trainer"]["numNodes"] == 2 and len(first) == 2
    kubectl("-n", ns, "delete", "pod", first[1], "--grace-period=0", "--force")

    def going_on() -> bool:  # the other pod, which leads, restarts its container, too
        said = [kubectl("-n", ns, "logs", name, allowed=(0, 1)) for name in nodes()]
        return any("resuming from a checkpoint" in one for one in said)

    wait_until("a training that goes on", going_on, 300, printed)
    assert set(nodes()) - set(first), "a new pod must replace the killed one"

    def ended() -> str:
        phase = kubectl("-n", ns, "get", "pod", "step", "-o", "jsonpath={.status.phase}")
        return phase if phase in ("Succeeded", "Failed") else ""

    assert wait_until("the end of the step", ended, 900, printed) == "Succeeded", printed()
    assert "trained " in printed()
    wait_until("the job's removal", lambda: not job(), 120)

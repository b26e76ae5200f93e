"""Test of a training on two nodes with Kubeflow Trainer, during which one pod is killed.

The test needs the images in $IMAGES, and Kubeflow Trainer 2.2 or later with its runtimes. It takes five minutes on two
CPUs.
"""

import json
import re

import pytest
import yaml

from components.trainer.train_job import GROUP, PLURAL, POD_NAME, POD_UID, VERSION
from tests.cluster.conftest import Installation
from tests.cluster.kfp_runs import platform, volume_pod
from tests.cluster.kubectl import Object, kubectl, listed, serves
from tests.cluster.running import image_of
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RUNTIME, ACCOUNT = "torch-distributed", "pipeline-runner"
TOUCHPOINTS = 20_000
# Largest accepted difference of validation losses; pairs of trainings differed by 0.001 to 0.003.
SPREAD = 0.008
STEP = f"""
import json
import logging
from dataclasses import replace
from pathlib import Path
from components.trainer.train import train_in_pods
from components.trainer.train_job import Pods, size_for
from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from mtorl.fitting.worker import FitTask
from mtorl.network.training import TrainConfig
from pipelines.profile import CLUSTER
logging.basicConfig(level=logging.INFO)
with open_engine() as engine:
    build(engine, RawLog("", "simulator", "fail", {TOUCHPOINTS} // 12), Path("/mnt/mtorl/built"))
config = TrainConfig(epochs=12, patience=12, batch_size=32, hidden=16)
task = FitTask("/mnt/mtorl/built/windows", "/tmp/model", config, 0.6, "/mnt/mtorl/checkpoints/0a1b.pt")
pods = replace(Pods.of(CLUSTER.training_pods), cpu="100m", cpu_limit="1", memory="1500Mi")
size = size_for(task.windows, pods)
together = train_in_pods(task, size, pods, "/mnt/mtorl/shared/0a1b").metrics
alone = replace(task, out="/tmp/alone", checkpoint="").run().metrics
losses = [[member["best_val_loss"] for member in one["members"]] for one in (together, alone)]
rows = json.loads(Path(task.windows, "manifest.json").read_text())["rows"]
print("trained", json.dumps({{"rows": rows, "nodes": size.nodes, "losses": losses}}))
"""


def step_pod(image: str) -> Object:
    names = {POD_NAME: "metadata.name", POD_UID: "metadata.uid"}
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in names.items()]
    compiled = {"MTORL_NODES": "2", "MTORL_GPUS": "0", "MTORL_IMAGE": image}  # as at `mtorl pipeline compile`
    env += [{"name": name, "value": value} for name, value in compiled.items()]
    return volume_pod("step", image, ["python", "-c", STEP], {"env": env}, serviceAccountName=ACCOUNT)


def test_two_nodes_train_and_a_killed_one_is_started_again(installation: Installation, images: list[Object]) -> None:
    if not (serves(f"{GROUP}/{VERSION}") and kubectl("get", "clustertrainingruntime", RUNTIME, "--ignore-not-found")):
        pytest.skip(f"the cluster of KUBECONFIG has no Kubeflow Trainer with its runtime {RUNTIME}")
    image, ns = image_of(images, "train"), installation.namespace

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

    eventually(lambda: 5 < progress() < 60, 600, printed)
    first = nodes()
    assert job()["spec"]["trainer"]["numNodes"] == 2 and len(first) == 2
    kubectl("-n", ns, "delete", "pod", first[1], "--grace-period=0", "--force")

    # The deleted pod wasn't the leader, but the leader's container restarts as well and resumes.
    def going_on() -> bool:
        said = [kubectl("-n", ns, "logs", name, allowed=(0, 1)) for name in nodes()]
        return any("resuming from a checkpoint" in one for one in said)

    eventually(going_on, 300, printed)
    assert set(nodes()) - set(first), "a new pod must replace the killed one"

    def ended() -> str:
        phase = kubectl("-n", ns, "get", "pod", "step", "-o", "jsonpath={.status.phase}")
        return phase if phase in ("Succeeded", "Failed") else ""

    assert eventually(ended, 900, printed) == "Succeeded", printed()
    result = json.loads(printed().rpartition("\ntrained ")[2])
    assert result["nodes"] == 2 and result["rows"] == pytest.approx(TOUCHPOINTS, rel=0.1)
    assert result["losses"][0] == pytest.approx(result["losses"][1], abs=SPREAD), "as in one process"
    eventually(lambda: not job(), 120)

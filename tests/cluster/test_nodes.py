"""Tests on several nodes simulated by kwok: spread of pods, drained nodes, and a lost node."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from tests.cluster.conftest import Installation, simulated
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.waiting import eventually

pytestmark = pytest.mark.cluster
# A label and a taint that keep the pods of other tests away from these nodes.
OWN = "mtorl-test-nodes"
NODES = {name: f"{OWN}-{name}" for name in ("a", "b", "c", "gpu")}
PLACE = {"nodeSelector": {OWN: "yes"}, "tolerations": [{"key": OWN, "operator": "Exists"}]}
TWICE = ("mtorl-router", "mtorl-operator", "mtorl-incumbent", "mtorl-challenger", "mtorl-feed")
PODS = Counter(["mtorl-ledger", "mtorl-redis", "mtorl-monitor-exporter", *TWICE, *TWICE])


def patch(kind: str, path: str) -> Object:
    changes = [{"op": "add", "path": f"{path}/{key}", "value": value} for key, value in PLACE.items()]
    return {"target": {"kind": kind}, "patch": json.dumps(changes)}


class OnNodes(Installation):
    predictors = patch("InferenceService", "/spec/predictor")
    further: ClassVar[Object] = {"patches": [patch("StatefulSet|Deployment", "/spec/template/spec"), predictors]}

    def ready(self) -> list[tuple[str, str]]:
        found = []
        for pod in listed(self.namespace, "pod"):
            labels, conditions = pod["metadata"]["labels"], pod["status"].get("conditions", [])
            node = pod["spec"].get("nodeName", "").removeprefix(f"{OWN}-")
            ready = ("Ready", "True") in [(one["type"], one["status"]) for one in conditions]
            if node in NODES and ready and "deletionTimestamp" not in pod["metadata"]:
                found.append((labels.get("serving.kserve.io/inferenceservice", labels["app.kubernetes.io/name"]), node))
        return found

    def wait_ready(self, routers: int, seconds: float = 120) -> tuple[Counter[str], Counter[str]]:
        """Wait until all pods are ready; returns the number of routers and of operators on each node."""
        wanted = PODS | Counter({"mtorl-router": routers}) if routers > 1 else PODS - Counter(["mtorl-router"])

        def all_of_them() -> list[tuple[str, str]]:
            found = self.ready()
            return found if Counter(name for name, _ in found) == wanted else []

        found = eventually(all_of_them, seconds, lambda: f"{Counter(self.ready())}\n{self.refusals()}")
        routers_, operators = (Counter(node for name, node in found if name == one) for one in TWICE[:2])
        return routers_, operators


@pytest.fixture
def production(tmp_path: Path, ended: list[str]) -> Iterator[OnNodes]:
    if not simulated():
        pytest.skip("the cluster of KUBECONFIG has real nodes: these are simulated")
    size, made = {"cpu": "32", "memory": "128Gi", "pods": "200"}, []
    for short, name in NODES.items():
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": short, OWN: "yes"}
        taints = [{"key": key, "effect": "NoSchedule"} for key in ((OWN, short) if short == "gpu" else (OWN,))]
        metadata = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        given = {"metadata": metadata, "spec": {"taints": taints}, "status": {"allocatable": size, "capacity": size}}
        made.append({"apiVersion": "v1", "kind": "Node", **given})
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(made))
    kubectl("wait", "--for=condition=Ready", "node", *NODES.values())
    installed = OnNodes(tmp_path)
    ended.append(installed.namespace)
    yield installed
    kubectl("delete", "node", "--ignore-not-found", *NODES.values())


def drain(*names: str) -> None:
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=20s"]
    kubectl("drain", *(NODES[name] for name in names), *options, allowed=(0, 1))


def test_pods_spread_over_the_nodes_that_take_them_and_a_drain_leaves_one_of_each(production: OnNodes) -> None:
    production.apply("overlays/production")
    kubectl("-n", production.namespace, "patch", "hpa", "mtorl-router", "--type=merge", '-p={"spec":{"minReplicas":6}}')
    routers, operators = production.wait_ready(routers=6)
    assert routers == {"a": 2, "b": 2, "c": 2} and set(operators.values()) == {1}
    claims = production.uids("pvc")
    drain("a")
    assert production.wait_ready(routers=6)[0] == {"b": 3, "c": 3}, "routers must avoid the drained node"
    # All nodes are drained now, but PodDisruptionBudgets must keep the last pod of four workloads.
    drain("b", "c")
    assert Counter(name for name, _ in production.ready()) == Counter(TWICE[:4])
    kubectl("uncordon", *NODES.values())
    production.wait_ready(routers=6)
    assert production.uids("pvc") == claims, "the volumes must be the same"


def test_a_router_whose_disk_is_lost_with_its_node_starts_with_a_new_one(production: OnNodes) -> None:
    namespace, claim, volume = production.namespace, "state-mtorl-router-1", f"{OWN}-disk"
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    on_a = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODES["a"]]}]}
    disk: dict[str, Any] = {**common, "capacity": {"storage": "10Gi"}, "hostPath": {"path": "/nowhere"}}
    disk |= {"nodeAffinity": {"required": {"nodeSelectorTerms": [on_a]}}}
    claimed = {**common, "volumeName": volume, "resources": {"requests": {"storage": "10Gi"}}}
    made = [("PersistentVolume", volume, disk), ("PersistentVolumeClaim", claim, claimed)]
    objects = [{"apiVersion": "v1", "kind": kind, "metadata": {"name": x}, "spec": spec} for kind, x, spec in made]
    kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    production.apply("overlays/production")
    assert production.wait_ready(routers=2)[0]["a"] == 1
    claims = production.uids("pvc")
    kubectl("delete", "node", NODES["a"])
    production.wait_ready(routers=1, seconds=180)
    eventually(lambda: "node affinity" in str(get(namespace, "pod", "mtorl-router-1")["status"]))
    assert production.uids("pvc") == claims, "the other pods must keep their volumes"
    kubectl("-n", namespace, "delete", "pvc", claim, "--wait=false")
    kubectl("-n", namespace, "delete", "pod", "mtorl-router-1")
    production.wait_ready(routers=2)
    assert {name for name, uid in production.uids("pvc").items() if claims[name] != uid} == {claim}
    kubectl("delete", "pv", volume, "--wait=false")

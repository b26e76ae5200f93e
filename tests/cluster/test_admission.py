"""Tests that the API server admits every kustomize target under Pod Security "restricted" and a quota."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.conftest import SECRETS, Installation
from tests.cluster.kfp_runs import platform
from tests.cluster.kubectl import get, kubectl, listed, refusal, serves
from tests.manifests.conftest import FOLDERS, Objects, rendered
from tests.waiting import eventually

pytestmark = pytest.mark.cluster


def objects_of(target: str) -> Objects:
    """Render a target, or skip the test if the cluster lacks a CRD."""
    objects = rendered(target)
    apis = {o["apiVersion"] for o in objects if re.search(r"\.\w+/", o["apiVersion"])}
    if missing := sorted(api for api in apis if ".k8s.io/" not in api and not serves(api)):
        pytest.skip(f"the cluster of KUBECONFIG does not serve {', '.join(missing)}")
    return objects


@pytest.mark.parametrize("target", [*FOLDERS, "examples/team"])
def test_a_target_is_admitted_whole(target: str, installation: Installation) -> None:
    objects = objects_of(target)
    installation.apply(target)
    assert installation.differences(target) == ""
    installation.wait_for_pods()
    for job in objects.of_kind("CronJob"):
        name = job["metadata"]["name"]
        kubectl("-n", installation.namespace, "create", "job", "--from", f"cronjob/{name}", f"{name}-now")
        eventually(
            lambda name=name: listed(installation.namespace, "pod", f"job-name={name}-now"),
            state=installation.refusals,
        )
    for name, pod in objects.of_kind("ScheduledSparkApplication").pods():
        assert not refusal(installation.namespace, pod), name


def test_a_profile_keeps_its_namespace_and_takes_production(tmp_path: Path, ended: list[str]) -> None:
    """Kubeflow's profile controller is not installed, so the test creates a namespace like those of the controller."""
    name, label = f"mtorl-test-profile-{uuid4().hex[:8]}", "app.kubernetes.io/part-of"
    ended.append(name)
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, f"{label}=kubeflow-profile", "pod-security.kubernetes.io/enforce=restricted")
    before = get("default", "namespace", name)["metadata"]["labels"]
    profile = Installation(tmp_path, "foundation/profile", name)
    kubectl("apply", "-f", "-", stdin=platform(name))
    profile.apply("overlays/production")
    profile.wait_for_pods()
    for target in ("foundation/profile", "overlays/production"):
        assert profile.differences(target) == "", target
    assert get("default", "namespace", name)["metadata"]["labels"] == before
    may = ("auth", "can-i", "create", "trainjobs.trainer.kubeflow.org", "-n", name, "--as")
    assert kubectl(*may, f"system:serviceaccount:{name}:default-editor") == "yes\n"


@pytest.mark.parametrize("plugin", [True, False])
def test_sidecars_of_istio_are_admitted_with_its_cni_plugin_alone(plugin: bool, installation: Installation) -> None:
    """Istio isn't installed, so the test adds the containers of Istio 1.30's injection template itself."""
    user = {"runAsUser": 1337, "runAsNonRoot": True, "allowPrivilegeEscalation": False}
    common = {"image": "proxyv2", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, "restartPolicy": "Always"}
    rights = {"istio-init": [] if plugin else ["NET_ADMIN", "NET_RAW"], "istio-proxy": []}
    sidecar = [
        {"name": name, **common, "securityContext": {**user, "capabilities": {"drop": ["ALL"], "add": added}}}
        for name, added in rights.items()
    ]
    token = {"projected": {"sources": [{"serviceAccountToken": {"path": "istio-token", "audience": "istio-ca"}}]}}
    installation.apply("tests/istio")
    for name, pod in rendered("tests/istio").pods():
        if "Spark" not in name:  # pods of Spark have no sidecar
            more = [{"name": "token", **token}, *({"name": key, "emptyDir": {}} for key in ("state", "data"))]
            volumes = {one["name"]: one for one in [*more, *pod.get("volumes", [])]}  # `more` fills in claim templates
            made = {key: pod[key] for key in ("containers", "securityContext", "serviceAccountName")}
            made |= {"initContainers": [*sidecar, *pod.get("initContainers", [])], "volumes": [*volumes.values()]}
            said = refusal(installation.namespace, made)
            assert (said == "") is plugin and ("NET_ADMIN" in said) is not plugin, f"{name}: {said}"


UPGRADES = [
    ["tests/without-prometheus-operator", "overlays/dev", "tests/spark-features", "tests/tracing"],
    ["overlays/production", "tests/everything"],
    ["overlays/dev", "overlays/production", "overlays/dev"],
]


@pytest.mark.parametrize("targets", UPGRADES, ids=lambda targets: "-".join(t.split("/")[1] for t in targets))
def test_targets_on_top_of_each_other(targets: list[str], installation: Installation) -> None:
    for target in targets:
        objects_of(target)
    installation.apply(targets[0])
    installation.wait_for_pods()
    workloads, claims = installation.uids("statefulset"), installation.uids("pvc")
    for target in targets[1:]:
        installation.apply(target)
        assert installation.differences(target) == "", target
        installation.wait_for_pods()
    assert workloads.items() <= installation.uids("statefulset").items(), "a recreated workload loses its state"
    assert claims.items() <= installation.uids("pvc").items(), "a recreated claim is an empty volume"


def test_the_data_outlive_the_application(installation: Installation) -> None:
    target = "tests/everything"
    objects_of(target)
    installation.apply(target)
    installation.wait_for_pods()
    claims = installation.uids("pvc")
    assert {"mtorl-data", "state-mtorl-router-0", "data-mtorl-redis-0", "data-mtorl-ledger-0"} <= claims.keys()
    kubectl("delete", "-k", installation.target(target), "--timeout=120s")
    assert not installation.uids("statefulset")
    # The autoscaler may have added claims meanwhile.
    assert claims.items() <= installation.uids("pvc").items()
    assert set(SECRETS) <= installation.uids("secret").keys()
    installation.apply(target)
    installation.wait_for_pods()
    assert claims.items() <= installation.uids("pvc").items(), "new volumes would bring a fresh budget"

"""Tests of the objects that KServe creates for an InferenceService."""

import pytest

from tests.cluster.conftest import Installation
from tests.cluster.kubectl import Object, get, listed
from tests.manifests.conftest import assert_restricted
from tests.waiting import eventually

pytestmark = pytest.mark.cluster

ARMS = ("incumbent", "challenger")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Installation:
    made = Installation(tmp_path_factory.mktemp("dev"))
    ended.append(made.namespace)
    made.apply("overlays/dev")
    wanted = {f"mtorl-{arm}-predictor" for arm in ARMS}

    def named() -> set[str]:
        return {str(found["metadata"]["name"]) for found in listed(made.namespace, "deployment")}

    eventually(lambda: wanted <= named())
    made.wait_for_pods()
    return made


def generated(installation: Installation, arm: str, kind: str) -> Object:
    return get(installation.namespace, kind, f"mtorl-{arm}-predictor")


@pytest.mark.parametrize("arm", ARMS)
def test_a_new_version_takes_over_without_a_gap_and_is_as_restricted_as_its_runtime_says(
    dev: Installation, arm: str
) -> None:
    spec = generated(dev, arm, "deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["template"]["metadata"]["annotations"]["mtorl-kubeflow/model"] == f"{arm}/first"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 30
    pod = listed(dev.namespace, "pod", f"serving.kserve.io/inferenceservice=mtorl-{arm}")[0]["spec"]
    assert pod["serviceAccountName"] == "mtorl-torchserve" and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["fsGroup"] == 10001
    assert [one["name"] for one in pod["containers"]] == ["kserve-container"], "KServe must add no container"
    assert [one["name"] for one in pod["initContainers"]] == ["wait-for-model"], "nothing must be downloaded"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert_restricted(pod)
    for one in (*pod["containers"], *pod["initContainers"]):
        (mount,) = [mount for mount in one["volumeMounts"] if mount["mountPath"] == "/mnt/models"]
        assert mount["readOnly"] is True and mount["subPath"] == "registry"
        assert volumes[mount["name"]]["persistentVolumeClaim"]["claimName"] == "mtorl-data"
    (container,) = pod["containers"]
    assert {"name": "MODEL_NAME", "value": arm} in container["env"], "KServe fills {{.Labels.arm}}"
    assert container["readinessProbe"]["httpGet"]["path"] == f"/predictions/{arm}"


def test_the_service_carries_predictions_and_metrics_and_the_autoscaler_is_the_overlays(dev: Installation) -> None:
    ports = generated(dev, "incumbent", "service")["spec"]["ports"]
    expected = [("http1", 80, 8080), ("metrics", 8082, 8082)]
    assert [(port["name"], port["port"], port["targetPort"]) for port in ports] == expected
    spec = generated(dev, "incumbent", "hpa")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 2)
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 70

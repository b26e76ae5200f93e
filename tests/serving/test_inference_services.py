"""Tests that InferenceServices report the versions that they serve or may roll back to."""

from typing import Any

import pytest

from serving import inference_services, messages
from serving.inference_services import INSTEAD_OF, MARK, VERSION, InferenceServices, services_of_pod, versions_of
from serving.kubernetes_api import KubernetesApi, Refused
from serving.model_servers import Mark, Served
from tests.messages import raises
from tests.pipelines.experiments.fake_cluster import FakeCluster

PROMOTED = Mark(experiment="e", promotion="1", before="incumbent/first", after="challenger/new")


def service(name: str, version: str, **notes: str) -> dict[str, Any]:
    predictor = {"annotations": {VERSION: version}} if version else {}
    return {"metadata": {"name": name, "annotations": notes}, "spec": {"predictor": predictor}}


def test_serving_versions_and_rollback_targets_are_in_use() -> None:
    promoted = service("mtorl-incumbent", "challenger/new", **{MARK: PROMOTED.model_dump_json()})
    deployed = service("mtorl-challenger", "challenger/newer", **{INSTEAD_OF: "challenger/old"})
    assert versions_of([promoted, deployed, service("other", "")]) == [
        ("challenger/new", messages.SERVES_NOW(server="mtorl-incumbent"), True),
        ("incumbent/first", messages.ROLLBACK_TARGET(server="mtorl-incumbent"), False),
        ("challenger/newer", messages.SERVES_NOW(server="mtorl-challenger"), True),
        ("challenger/old", messages.ROLLBACK_TARGET(server="mtorl-challenger"), False),
    ]


@pytest.mark.parametrize("mark", ["{", "[]", "7", '{"else": 1}'])
def test_an_invalid_mark_hides_no_version(mark: str) -> None:
    assert [name for name, _, _ in versions_of([service("one", "a/1", **{MARK: mark}), service("two", "b/2")])] == [
        "a/1",
        "b/2",
    ]


def test_a_new_version_serves_after_its_rollout_and_the_mark_stays() -> None:
    cluster = FakeCluster()
    cluster.add_service("mtorl-incumbent", "incumbent/first")
    servers = InferenceServices(cluster)
    assert servers.served("mtorl-incumbent") == Served("incumbent/first", "")
    servers.serve("mtorl-incumbent", "challenger/new", PROMOTED)
    found = servers.served("mtorl-incumbent")
    assert found == Served("challenger/new", messages.NOT_BEGUN(), PROMOTED)
    cluster.roll_out("mtorl-incumbent")
    servers.serve("mtorl-incumbent", "challenger/newer", instead_of="challenger/new")
    cluster.roll_out("mtorl-incumbent")
    assert servers.served("mtorl-incumbent") == Served("challenger/newer", "", PROMOTED, "challenger/new")
    assert servers.served("nowhere") is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://mtorl-incumbent-predictor/v1/models/incumbent:predict", "mtorl-incumbent"),
        ("http://mtorl-incumbent-predictor.ads.svc", "mtorl-incumbent"),
        ("http://mtorl-incumbent-predictor.other.svc", None),
        ("http://platform.ads.svc", None),
        (None, None),
    ],
)
def test_a_server_is_known_by_its_url(url: str | None, name: str | None) -> None:
    assert InferenceServices(FakeCluster()).name_at(url) == name


@pytest.mark.parametrize("status", [403, 404, 422])
def test_a_pod_that_may_not_list_services_gets_an_error(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    class Api(KubernetesApi):
        def __init__(self, **_: object) -> None: ...

        def list(self, kind: str, selector: str = "") -> list[Any]:
            raise Refused(status, "no")

    monkeypatch.setattr(inference_services, "KubernetesApi", Api)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert services_of_pod() is None, "a laptop has no cluster"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    if status == 404:
        assert services_of_pod() == [], "KServe is not installed"
        return
    with raises(PermissionError, messages.FORBIDDEN if status == 403 else messages.KUBERNETES_REFUSES):
        services_of_pod()

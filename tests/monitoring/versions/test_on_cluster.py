"""What InferenceServices serve, or would after a rollback; and what happens where nobody may ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

import monitoring.versions.on_cluster as on_cluster
from monitoring.versions.on_cluster import NotAllowedError, services_beside_us, uses_now, uses_of_services
from monitoring.versions.uses import Use


def service(name: str, version: str, mark: object = None) -> dict[str, Any]:
    annotations = {} if mark is None else {"mtorl-kubeflow/promotion": mark}
    predictor = {"annotations": {"mtorl-kubeflow/model": version}} if version else {}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {"predictor": predictor}}


def test_what_serves_and_what_a_rollback_goes_back_to() -> None:
    mark = json.dumps({"experiment": "e", "promotion": "1", "before": "incumbent/first", "after": "challenger/new"})
    assert uses_of_services([service("mtorl-incumbent", "challenger/new", mark)]) == [
        Use("challenger/new", "mtorl-incumbent serves it", True),
        Use("incumbent/first", "a rollback of mtorl-incumbent goes back to it", False),
    ]


@pytest.mark.parametrize("mark", ["{", "[]", "7", '{"else": 1}'])
def test_a_mark_by_hand_hides_nothing_else(mark: str) -> None:
    found = uses_of_services([service("one", "a/1", mark), service("other", ""), service("two", "b/2")])
    assert [use.name for use in found] == ["a/1", "b/2"]


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    (tmp_path / "namespace").write_text("ads\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(on_cluster, "_NAMESPACE", tmp_path / "namespace")
    return monkeypatch


def answers(pod: pytest.MonkeyPatch, status: int) -> None:
    def ask(_: object, *where: str, **__: object) -> dict[str, Any]:
        assert where == ("serving.kserve.io", "v1beta1", "ads", "inferenceservices")
        if status != 200:
            raise ApiException(status=status, reason="no")
        return {"items": [service("mtorl-incumbent", "incumbent/first")]}

    pod.setattr(client.CustomObjectsApi, "list_namespaced_custom_object", ask)


def test_a_pod_asks_for_those_of_its_namespace(pod: pytest.MonkeyPatch) -> None:
    answers(pod, 200)
    assert [use.name for use in uses_now("")] == ["incumbent/first"]
    answers(pod, 404)
    assert services_beside_us() == [], "there is no KServe"


@pytest.mark.parametrize(("status", "says"), [(403, "let its service account list"), (500, "try it again")])
def test_who_may_not_ask_does_not_know(pod: pytest.MonkeyPatch, status: int, says: str) -> None:
    answers(pod, status)
    with pytest.raises(NotAllowedError, match=says):
        uses_now("")


def test_who_has_no_credentials_does_not_know(pod: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pod.setattr(on_cluster, "_NAMESPACE", tmp_path / "missing")
    with pytest.raises(NotAllowedError, match="does not say what serves"):
        services_beside_us()


def test_a_laptop_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert services_beside_us() is None and uses_now("") == []

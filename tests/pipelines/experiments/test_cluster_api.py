"""An API server that takes connections and answers nothing, as one whose node is gone: nobody waits for ever."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from pipelines.experiments.operator import cluster_api, lease
from pipelines.experiments.operator.cluster_api import ClusterApi
from pipelines.experiments.operator.lease import Lease


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterApi]:
    before = client.Configuration.get_default_copy()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def load() -> None:
            client.Configuration.set_default(client.Configuration(host=f"http://127.0.0.1:{silent.getsockname()[1]}"))

        monkeypatch.setattr(config, "load_kube_config", load)
        yield ClusterApi("ads", "mtorl-experiment")
    client.Configuration.set_default(before)


def test_a_silent_api_server_is_waited_for_for_seconds(api: ClusterApi, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(cluster_api._SECONDS) <= 5
    monkeypatch.setattr(cluster_api, "_SECONDS", tuple(one / 10 for one in cluster_api._SECONDS))
    began = time.monotonic()
    for ask in (
        api.in_force,
        lambda: api.experiment("spring"),
        lambda: api.replace_status({"metadata": {"name": "spring"}}),
        lambda: api.put_in_force({"metadata": {}}),
    ):
        with pytest.raises(OSError, match="timed out"):
            ask()
    api.say({"metadata": {"name": "spring", "uid": "1"}}, "Shadow", "said to nobody")
    assert time.monotonic() - began < 5


def test_a_lease_that_can_not_be_renewed_is_lost(api: ClusterApi, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("ANSWER", (0.1, 0.1)), ("RENEW", 0.05), ("GIVE_UP", 0.3)):
        monkeypatch.setattr(lease, f"_{name}_SECONDS", seconds)
    held, ended = Lease("ads", "mtorl-operator"), []
    held.on_loss(lambda: ended.append(time.monotonic()))
    held._renew()
    assert ended


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_change_of_a_server_that_is_refused_is_no_fault_of_ours(
    api: ClusterApi, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        refused = ApiException(status=status)
        refused.body = '{"message": "admission webhook denied it"}'
        raise refused

    monkeypatch.setattr(client.CustomObjectsApi, "patch_namespaced_custom_object", refuse)
    with pytest.raises(OSError, match="admission webhook denied it"):
        api.patch_inference_service("mtorl-incumbent", {})

"""Test that users may do on the experiments page only what the API server allows them."""

import time

import httpx
import pytest

from monitoring.experiments.web import serving, site
from pipelines.experiments.cluster_api import REASON, ClusterApi
from pipelines.experiments.operator.access import require_rights
from tests.cluster.kubectl import get, kubectl
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = pytest.mark.cluster
HEADER, BUTTON = "kubeflow-userid", {"mtorl-page": "stop"}


def test_viewers_read_the_page_and_editors_stop_an_experiment(ended: list[str]) -> None:
    namespace, name = f"mtorl-test-page-{time.time_ns() % 10**8}", "mtorl-vs-incumbent"
    ended.append(namespace)
    kubectl("create", "namespace", namespace)
    kubectl("-n", namespace, "apply", "-f", f"{MANIFESTS}/examples/experiment.yaml")
    for role in ("view", "edit"):
        kubectl("-n", namespace, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}@{namespace}")
    app = site(lambda: [], "0.0.0.0")
    require_rights(app, ClusterApi(namespace), HEADER)
    with serving(app, "127.0.0.1", 0) as url:

        def status(path: str, *users: str, **button: str) -> int:
            headers = [*((HEADER, f"{user}@{namespace}") for user in users), *button.items()]
            return httpx.request("POST" if "/" in path else "GET", url + path, headers=headers, timeout=60).status_code

        stop = f"stop/{name}"
        eventually(lambda: status("", "edit") == 200)
        asked = [(path, user) for user in ("view", "stranger") for path in ("", "experiments.json")]
        assert [status(*one) for one in asked] == [200, 200, 403, 403]
        assert [status(""), status("", "view", "edit"), status(stop, **BUTTON)] == [401, 401, 401]
        assert [status(stop, "view", **BUTTON), status(stop, "edit")] == [403, 403], "view role; form without token"
        assert get(namespace, "exp", name)["spec"]["enabled"] is True
        assert [status(one, "edit", **BUTTON) for one in (stop, "stop/none")] == [200, 409]
        assert [status("metrics"), status("metrics/"), status("%2F")] == [200, 401, 401]
    found = get(namespace, "exp", name)
    assert found["spec"]["enabled"] is False
    assert found["metadata"]["annotations"][REASON] == f"stopped on the page by edit@{namespace}"

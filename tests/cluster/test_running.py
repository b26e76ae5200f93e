"""Tests of an installation on a real node.

The variable $IMAGES names a file with the output of `scripts/images.sh load` or `scripts/images.sh push`. Each test
continues from the state that the previous test left.
"""

import json
import subprocess
import time
from functools import partial
from uuid import uuid4

import pytest

from tests.cluster.experiment_pods import ROUTERS
from tests.cluster.kubectl import Object, get, kubectl
from tests.cluster.running import USERS, Answers, Running, answers, decided
from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

UNLINK_ALL = """
for _, key in ipairs(redis.call("keys", "*")) do redis.call("unlink", key) end
return redis.call("dbsize")
"""


@pytest.fixture(scope="module")
def running(images: list[Object], tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Running:
    made = Running(tmp_path_factory.mktemp("running"), images)
    ended += [made.namespace, made.gateway]
    made.install("overlays/dev")
    kubectl("-n", made.namespace, "apply", "-f", str(MANIFESTS / "examples" / "experiment.yaml"))
    return made


def test_before_the_bootstrap_everything_waits_and_says_for_what(running: Running) -> None:
    def refused() -> Answers:
        # The Service forwards requests only to ready routers, so ask the pod itself.
        said = running.call(2, uuid4().hex, running.address("mtorl-router-0"))
        return [one for one in said if one["status"] == 503 and "mtorl-bootstrap" in one["said"]]

    (first, *_) = eventually(refused, 180)
    assert first["retry_after"]
    model = ("logs", "-l", "serving.kserve.io/inferenceservice=mtorl-incumbent", "-c", "wait-for-model")
    said = eventually(lambda: kubectl("-n", running.namespace, *model, allowed=(0, 1)), 120)
    assert "no model registry/incumbent/first" in said
    assert not running.restarts()


def test_after_the_bootstrap_the_first_decision(running: Running) -> None:
    ns = running.namespace
    running.bootstrap()
    kubectl("-n", ns, "wait", "--for=condition=Ready", *(f"pod/{one}" for one in ROUTERS), "--timeout=120s")
    first = eventually(lambda: decided(running.call(3, uuid4().hex)), 180)[0]
    assert first["arm"] == "incumbent" and first["model"]["name"] == "incumbent", "the experiment is a draft"


def test_only_the_wanted_flows_are_open(running: Running) -> None:
    ns, gateway = running.namespace, f"{running.gateway}/caller"
    stranger = f"{ns}-stranger"
    kubectl("create", "namespace", stranger)
    try:
        running.idle_pod(stranger, "stranger")
        running.idle_pod(ns, "own")
        strangers = (f"{stranger}/stranger", f"{ns}/own")
        router, model, redis = (f"mtorl-{name}.{ns}" for name in ("router", "incumbent-predictor", "redis"))
        assert running.reaches(gateway, router, 80)
        for pod in strangers:
            assert not running.reaches(pod, router, 80), pod
        for pod in (gateway, *strangers):
            assert not running.reaches(pod, model, 80) and not running.reaches(pod, redis, 6379), pod
        inside = f"{ns}/mtorl-router-0"
        assert running.reaches(inside, model, 80) and running.reaches(inside, redis, 6379)
        assert not running.reaches(inside, model, 8082), "only Prometheus may read metrics"
    finally:
        kubectl("delete", "namespace", stranger, "--wait=false")


def answers_while_killed(running: Running, pod: str) -> Answers:
    caller = running.calling(60, pod)
    time.sleep(10)
    kubectl("-n", running.namespace, "delete", "pod", pod, "--force", "--grace-period=0")
    return answers(caller)


def test_a_killed_router_loses_no_decision_that_was_answered(running: Running) -> None:
    said = answers_while_killed(running, ROUTERS[0])
    assert {one["status"] for one in said} <= {0, 200, 503}
    assert said[-1]["status"] == 200
    kubectl("-n", running.namespace, "wait", "--for=condition=Ready", "pod/mtorl-router-0", "--timeout=120s")
    logged = {pod: running.logged(pod) for pod in ROUTERS}
    decisions = {one["decision_id"] for one in said if one["status"] == 200}
    assert decisions <= logged[ROUTERS[0]] | logged[ROUTERS[1]]
    assert all(decisions & one for one in logged.values()), "both routers must answer"


def test_the_callers_token_is_replaced_by_the_commands_of_the_page(running: Running) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    section = page[page.index("### Change the callers' tokens") :]
    commands = section.partition("```bash\n")[2].partition("```")[0].replace("-n mtorl", f"-n {running.namespace}")
    both, _, last = commands.partition("# ... when all callers send the new one:\n")
    caller = running.calling(90, uuid4().hex)  # with the old token
    run = partial(subprocess.run, shell=True, check=True, capture_output=True, text=True, executable="/bin/bash")
    new = run(f'{both}echo "$NEW"').stdout.split()[-1]
    old, running.token = running.token, new
    assert eventually(lambda: decided(running.call(3, uuid4().hex)), 130)
    assert {one["status"] for one in answers(caller)} == {200}
    run(f"NEW={new}\n{last}")
    assert decided(running.call(3, uuid4().hex))
    running.token = old
    eventually(lambda: {one["status"] for one in running.call(3, uuid4().hex)} == {401}, 130)
    running.token = new


def test_the_autoscaler_adds_and_removes_a_router_without_loss(running: Running) -> None:
    """The test changes the autoscaler's bounds, because the cluster may have no metrics-server."""
    ns, third = running.namespace, "mtorl-router-2"

    def bounds(replicas: int) -> None:
        spec = {"spec": {"minReplicas": replicas, "maxReplicas": replicas}}
        kubectl("-n", ns, "patch", "hpa", "mtorl-router", "--type=merge", "-p", json.dumps(spec))

    caller = running.calling(240, uuid4().hex)
    bounds(3)
    eventually(lambda: third in running.uids("pod"), 120)
    kubectl("-n", ns, "wait", "--for=condition=Ready", f"pod/{third}", "--timeout=120s")
    alone = {one["decision_id"] for one in running.call(5, uuid4().hex, running.address(third)) if decided([one])}
    bounds(2)
    eventually(lambda: third not in running.uids("pod"), 180)
    said = answers(caller)
    assert {one["status"] for one in said} <= {0, 200, 503} and said[-1]["status"] == 200
    decisions = {one["decision_id"] for one in said if one["status"] == 200}
    assert alone
    eventually(lambda: decisions | alone <= running.uploaded(), 240)


def test_a_killed_redis_costs_default_actions_and_nothing_else(running: Running) -> None:
    said = answers_while_killed(running, "mtorl-redis-0")
    assert {one["status"] for one in said} == {200}
    assert not [one for one in said if one["fallback_reason"] and one["expose"]]
    eventually(lambda: decided(running.call(3, uuid4().hex)), 120)
    assert {one["decision_id"] for one in said} <= running.logged(ROUTERS[0]) | running.logged(ROUTERS[1])


def test_a_redis_that_was_emptied_is_filled_again(running: Running) -> None:
    def in_redis(script: str) -> str:
        script = f'export REDISCLI_AUTH="$REDIS_PASSWORD"; {script}'
        return kubectl("-n", running.namespace, "exec", "mtorl-redis-0", "--", "sh", "-c", script).strip()

    def keys() -> int:
        return int(in_redis("redis-cli dbsize"))

    assert keys() >= USERS
    # Delete the keys with a script in Redis: FLUSHALL is disabled, and a shell would misread the keys' characters.
    assert in_redis(f"redis-cli eval '{UNLINK_ALL}' 0") == "0"
    # Users with recent decisions return only when the compaction reads the hour of these decisions.
    eventually(lambda: keys() >= USERS, 240, keys)


def test_a_router_that_can_not_start_is_rolled_back(running: Running) -> None:
    ns, router = running.namespace, ("statefulset", "mtorl-router")
    broken = {"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["--run-config=/nowhere"]}
    kubectl("-n", ns, "patch", *router, "--type=json", "-p", json.dumps([broken]))

    def failing() -> bool:
        statuses = get(ns, "pod", ROUTERS[1])["status"].get("containerStatuses", [])
        return any(status["restartCount"] or status.get("lastState") for status in statuses)

    eventually(failing, 120)
    assert decided(running.call(3, uuid4().hex)), "the other router must stay until the first is ready"
    kubectl("-n", ns, "rollout", "undo", "statefulset/mtorl-router")
    kubectl("-n", ns, "rollout", "status", "statefulset/mtorl-router", "--timeout=120s")
    assert decided(running.call(3, uuid4().hex))

"""Tests of an Experiment object on a cluster that runs the operator, two routers and the models.

Each test continues from the state that the previous test left. test_running.py explains the variable $IMAGES.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.cluster.experiment_pods import NAME, ROUTERS, Pods
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.cluster.running import Answers, decided
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]
BOTH = {"incumbent", "challenger"}
EXAMPLE = yaml.safe_load((MANIFESTS / "examples" / "experiment.yaml").read_text())["spec"]
SPEC = {
    **EXAMPLE,
    "salt": "pods",
    "ramp": {
        "stages": [{"stage": "shadow", "hours": 1000}, {"stage": "50%", "hours": 1000}],
        "fallback_ratio": 0.5,  # a small node is slow at times
    },
    "budgets": EXAMPLE["budgets"][:1],
    "metrics": {"primary": "click_per_decision"},
}
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
# Seconds within which each router must apply a change.
MOST = 60.0


@pytest.fixture(scope="module")
def pods(images: list[Object], tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Pods:
    made = Pods(tmp_path_factory.mktemp("pods"), images)
    ended += [made.namespace, made.gateway, made.monitoring]
    kubectl("create", "namespace", made.monitoring)
    kubectl("label", "namespace", made.monitoring, "mtorl-kubeflow/monitoring=true")
    made.install("overlays/dev")
    made.bootstrap()
    return made


def test_without_an_experiment_a_router_waits_and_says_for_what(pods: Pods) -> None:
    pods.operator()

    def refused() -> Answers:
        return [one for one in pods.asked(ROUTERS[0], 2) if one["status"] == 503 and "operator" in one["said"]]

    # Ask the first router, because the second one waits until the first has created the ledger's accounts.
    eventually(refused, 180, pods.state)
    assert not pods.restarts()


def test_a_draft_gives_everybody_the_incumbent(pods: Pods) -> None:
    pods.people.apply(NAME, SPEC)
    pods.people.wait_for(("True", "Usable"), name=NAME, state=pods.state)
    kubectl("-n", pods.namespace, "wait", "--for=condition=Ready", *(f"pod/{one}" for one in ROUTERS), "--timeout=120s")
    eventually(pods.is_in_force, state=pods.state)
    assert pods.people.phase(NAME) == "draft" and pods.serve({"incumbent"})


def test_it_is_started_by_a_move(pods: Pods) -> None:
    pods.people.move(NAME, "shadow", "agreed on Monday")
    pods.people.wait_for_phase("shadow", NAME, state=pods.state)
    eventually(pods.is_in_force, state=pods.state)
    assert pods.serve({"incumbent"})


def test_the_ramp_takes_it_on_from_what_the_routers_log(pods: Pods) -> None:
    pods.people.patch(
        NAME, ramp={"stages": [{"stage": "shadow", "hours": 0, "users": 10}, {"stage": "50%", "hours": 1000}]}
    )
    pods.people.wait_for_phase("50%", NAME, seconds=480, state=pods.state)
    (*_, moved) = pods.people.status(NAME)["history"]
    assert (moved["kind"], moved["by"]) == ("move", "ramp")
    eventually(lambda: pods.serve(BOTH), state=pods.state)


def test_the_kill_switch_works_on_each_router(pods: Pods) -> None:
    pods.people.patch(NAME, enabled=False)
    eventually(lambda: pods.serve({"incumbent"}), MOST, pods.state)
    eventually(pods.is_in_force, state=pods.state)
    pods.people.patch(NAME, enabled=True)
    eventually(lambda: pods.serve(BOTH), MOST, pods.state)
    assert pods.people.kinds(NAME) == ["move", "move", "kill", "resume"]


def test_the_operator_answers_routers_and_monitoring_and_nobody_else(pods: Pods) -> None:
    ns, service = pods.namespace, f"mtorl-operator.{pods.namespace}"
    pods.idle_pod(pods.monitoring, "prometheus")
    pods.idle_pod(ns, "own")

    def got(path: str) -> str:
        leader = get(ns, "pod", pods.operator())["status"]["podIP"]
        address = f"http://{leader}:8080{path}"
        return kubectl("-n", pods.monitoring, "exec", "prometheus", "--", "python", "-c", GET, address)

    assert "<title>" in got("/") and NAME in got("/")
    assert f'mtorl_experiment_stage{{experiment="{NAME}",stage="50%"}} 1.0' in got("/metrics")
    (document,) = json.loads(got("/experiments.json"))
    assert (document["name"], document["phase"]) == (NAME, "50%")
    for pod in (f"{pods.gateway}/caller", f"{ns}/own"):
        assert not pods.reaches(pod, service, 8080), pod
    assert pods.reaches(f"{ns}/{ROUTERS[0]}", service, 8080)
    for other, port in (("router", 80), ("redis", 6379), ("ledger", 6379), ("challenger-predictor", 80)):
        assert not pods.reaches(f"{ns}/{pods.operator()}", f"mtorl-{other}.{ns}", port), other


def test_a_promotion_hands_the_model_over_and_a_rollback_gives_it_back(pods: Pods) -> None:
    serve = eventually(lambda: pods.models() if len(pods.models()) == len(BOTH) else None, MOST, pods.state)

    def versions() -> set[str]:
        label = "serving.kserve.io/inferenceservice=mtorl-incumbent"
        return {pod["metadata"]["annotations"]["mtorl-kubeflow/model"] for pod in listed(pods.namespace, "pod", label)}

    with ThreadPoolExecutor(len(ROUTERS)) as pool:
        heard = [pool.submit(pods.asked, router, 180) for router in ROUTERS]
        for to, reason, version, model in (
            ("promoted", "HandedOver", "challenger/first", serve["challenger"]),
            ("rolled back", "RolledBack", "incumbent/first", serve["incumbent"]),
        ):
            pods.people.move(NAME, to, "a test", force=True)  # force: the log is not yet uploaded
            pods.people.wait_for(("True", reason), "Settled", NAME, seconds=300, state=pods.state)
            eventually(lambda version=version: versions() == {version}, 60, pods.state)
            eventually(lambda model=model: pods.models() == {"incumbent": model}, MOST, pods.state)
        said = [one for answers in heard for one in answers.result()]
    assert {one["status"] for one in said} == {200}
    # Some model requests may time out on a busy node, but no other model error is allowed.
    assert "model_error" not in {one["fallback_reason"] for one in said}
    assert len(decided(said)) > 0.8 * len(said)
    history = pods.people.status(NAME)["history"]
    assert [event["to"] or event["kind"] for event in history][-3:] == ["promoted", "handed over", "rolled back"]


def test_a_deleted_experiment_leaves_everybody_the_incumbent(pods: Pods) -> None:
    kubectl("-n", pods.namespace, "delete", "exp", NAME)
    eventually(lambda: pods.serve({"incumbent"}), MOST, pods.state)
    assert not pods.people.in_force(NAME).enabled


def test_nothing_was_forbidden_and_nothing_began_anew(pods: Pods) -> None:
    assert "orbidden" not in pods.log()
    assert not pods.restarts()

"""Tests of Experiment objects on an API server, with the operator and two routers as local processes."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from tests.cluster.conftest import Installation
from tests.cluster.experiment_objects import Cluster
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.cluster.operator_process import OperatorProcess
from tests.experiments import experiment
from tests.manifests.conftest import MANIFESTS, documents, rendered
from tests.repository import ROOT
from tests.serving.router_fixtures import instance, made_feast_repo
from tests.serving.router_process import Process
from tests.waiting import eventually

pytestmark = pytest.mark.cluster
RAMP = {"stages": [{"stage": "shadow", "hours": 0, "users": 0}, {"stage": "50%", "hours": 0, "users": 0}]}
USABLE, EVERY_ROUTER, HANDED_OVER = ("True", "Usable"), ("True", "EveryRouter"), ("True", "HandedOver")
GO = {"move": {"to": "50%", "reason": "go"}}
COLUMNS = ["NAME", "STAGE", "ENABLED", "USERS", "LIFT", "INTERVAL", "SPEND", "VERDICT", "IN_FORCE", "SPEC", "AGE"]


def spec(endpoint: str = "http://127.0.0.1:9", **changes: Any) -> Object:
    fields = experiment(endpoint, ramp=RAMP, **changes)
    return {name: value for name, value in fields.items() if name not in ("name", "stage")}


@pytest.fixture(scope="module")
def namespace(ended: list[str]) -> str:
    name = f"mtorl-test-exp-{time.time_ns() % 10**8}"
    kubectl("apply", "-k", str(MANIFESTS / "crds"))
    kubectl("wait", "--for=condition=Established", "crd/experiments.mtorl-kubeflow.github.io")
    kubectl("create", "namespace", name)
    ended.append(name)
    return name


@pytest.fixture
def cluster_of(namespace: str) -> Iterator[Cluster]:
    yield Cluster(namespace)
    kubectl("-n", namespace, "delete", "exp", "--all")
    kubectl("-n", namespace, "delete", "cm", "mtorl-experiment", "--ignore-not-found")
    kubectl("-n", namespace, "delete", "lease", "mtorl-operator", "--ignore-not-found")


@pytest.fixture
def operator(namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(namespace, tmp_path) as process:
        yield process


def test_the_kill_switch_works_on_each_router(cluster_of: Cluster, operator: OperatorProcess, tmp_path: Path) -> None:
    features = made_feast_repo(tmp_path)
    folders = [tmp_path / f"router-{number}" for number in range(2)]
    for folder in folders:
        folder.mkdir()
    shared = {"feature_repo": str(features), "operator": operator.url, "experiment": "mounted.yaml"}
    shared |= {"lake": str(tmp_path / "lake"), "upload_seconds": 0.0}
    routers = [Process(folder, ready=False, **shared) for folder in folders]
    for folder in folders:
        (folder / "mounted.yaml").unlink()  # now only the operator serves active experiments
    with routers[0] as one, routers[1] as other:
        cluster_of.apply("first", spec(one.endpoint, layer_part=[0, 0.5]))
        cluster_of.wait_for(USABLE)
        for router in (one, other):
            router.said("router ready http://127.0.0.1:")
        assert cluster_of.phase("first") == "draft"
        cluster_of.move("first", "shadow")
        cluster_of.wait_for_phase("shadow")

        def moved() -> bool:
            arms_of(one)
            return cluster_of.phase("first") == "50%"

        eventually(moved, state=operator.log)
        serves = {"incumbent", "challenger"}
        eventually(lambda: all(arms_of(router) == serves for router in (one, other)))
        cluster_of.wait_for(EVERY_ROUTER, "InForce")

        for off in (True, False, True):
            cluster_of.patch("first", enabled=not off)
            wanted = {"incumbent"} if off else serves
            eventually(lambda wanted=wanted: all(arms_of(router) == wanted for router in (one, other)))
        assert cluster_of.kinds("first")[2:] == ["kill", "resume", "kill"]
        columns = kubectl("-n", cluster_of.namespace, "get", "exp", "first").splitlines()
        assert columns[0].replace("IN FORCE", "IN_FORCE").split() == COLUMNS
        assert columns[1].split()[:4] == ["first", "50%", "false", "0"]
        described = kubectl("-n", cluster_of.namespace, "describe", "exp", "first")
        assert "Stage50Percent" in described and "Kill" in described

        cluster_of.patch("first", enabled=True)
        second = spec(one.endpoint, salt="second", layer_part=[0.5, 1])
        cluster_of.apply("second", {**second, **GO})
        for name in ("first", "second"):
            cluster_of.wait_for(EVERY_ROUTER, "InForce", name)
        assert sorted(cluster_of.served()) == ["first.yaml", "second.yaml"]
        assert said_by(one, "experiment") == said_by(other, "experiment") == {"first", "second"}
        cluster_of.patch("second", enabled=False)
        eventually(lambda: not cluster_of.in_force("second").enabled)
        assert cluster_of.in_force("first").enabled and arms_of(one) == serves, "one switch must not affect the other"
        cluster_of.patch("first", enabled=False)
        eventually(lambda: all(arms_of(router) == {"incumbent"} for router in (one, other)))

        # While the operator is down, the routers keep the last active experiments.
        operator.kill()
        cluster_of.patch("first", enabled=True)
        time.sleep(3)
        assert all(arms_of(router) == {"incumbent"} for router in (one, other))
        operator.start()
        eventually(lambda: all(arms_of(router) == serves for router in (one, other)))


def test_what_may_not_change_is_refused_by_the_api_server(cluster_of: Cluster, operator: OperatorProcess) -> None:
    cluster_of.apply("first", spec(metrics={"primary": "click_per_decision", "outcome_hours": "none"}))
    cluster_of.wait_for(USABLE)
    assert cluster_of.in_force().metrics.outcome_hours is None
    cluster_of.patch("first", alpha=0.1)  # a draft can be changed
    cluster_of.move("first", "shadow")
    cluster_of.wait_for_phase("shadow")
    assert "alpha may not change after the experiment has begun" in cluster_of.refused("first", alpha=0.2)
    assert "layer_part may not change" in cluster_of.refused("first", layer_part=[0, 0.5])
    arms = spec()["arms"]
    assert "the names of the arms may not" in cluster_of.refused("first", arms=[arms[0], {**arms[1], "name": "new"}])
    assert "give a ramp, or else a stage" in cluster_of.refused("first", ramp=None)
    assert "must add up to 1" in cluster_of.refused("first", arms=[arms[0], {**arms[1], "weight": 0.4}])
    assert "Unsupported value" in cluster_of.refused("first", move={"to": "sideways", "reason": "?"})
    for metric in ("nosuch_metric", "cost_per_decision"):
        refused = cluster_of.refused("first", metrics={"primary": metric})
        assert "spec.metrics.primary: Invalid value" in refused and "the primary metric must be gain_per" in refused
    wrong = {"name": "nosuch_metric", "direction": "up", "margin": 0}
    assert "a metric must be exposure_ratio" in cluster_of.refused("first", metrics={"guardrails": [wrong]})
    cluster_of.patch("first", salt="another", alpha=0.2)
    cluster_of.wait_for_phase("draft")


def test_what_is_null_stays_null_in_the_history(cluster_of: Cluster, operator: OperatorProcess) -> None:
    """The stored history must keep null fields, because a rollback restores arms from it."""
    arms = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, spec()["arms"][1]]
    cluster_of.apply("first", spec(arms=arms, metrics={"primary": "click_per_decision", "outcome_hours": "none"}))
    for to in ("shadow", "50%", "promoted"):
        cluster_of.move("first", to, force=to == "promoted")  # force: there is no log
        cluster_of.wait_for_phase(to, state=operator.log)
    assert cluster_of.condition("first", "Accepted") == ("True", "Usable")
    assert cluster_of.in_force().arm("incumbent").url == cluster_of.in_force().arm("challenger").url
    cluster_of.move("first", "rolled back")
    eventually(lambda: cluster_of.in_force().arm("incumbent").policy == "baseline")


def test_a_kill_switch_by_config_map_shows_and_a_patch_ends_it(cluster_of: Cluster, operator: OperatorProcess) -> None:
    def shown() -> list[str]:
        return kubectl("-n", cluster_of.namespace, "get", "exp", "first", "--no-headers").split()[:3]

    def message() -> str:
        said = [one for one in cluster_of.status("first")["conditions"] if one["type"] == "InForce"]
        return str(said[0]["message"])

    cluster_of.apply("first", {**spec(), **GO})
    eventually(lambda: shown() == ["first", "50%", "true"], state=operator.log)
    config_map = get(cluster_of.namespace, "cm", "mtorl-experiment")
    off = json.dumps(config_map).replace("enabled: true", "enabled: false")
    kubectl("replace", "-f", "-", stdin=off)
    cluster_of.wait_for(("False", "OffByHand"), "InForce", state=operator.log)
    assert shown() == ["first", "50%", "false"] and not cluster_of.in_force().enabled
    command = message().partition("a reason: ")[2].replace("WHY", "clicks are back")
    subprocess.run(command, shell=True, check=True)
    eventually(lambda: shown() == ["first", "50%", "true"], state=operator.log)
    assert cluster_of.in_force().enabled
    assert cluster_of.kinds("first") == ["move", "kill", "resume"]


def test_what_is_uninstalled_is_not_made_anew(namespace: str, tmp_path: Path) -> None:
    objects = operators(namespace, ("ConfigMap", "mtorl-experiment"))
    first = {"apiVersion": "mtorl-kubeflow.github.io/v1alpha1", "kind": "Experiment"}
    objects.append({**first, "metadata": {"name": "first", "namespace": namespace}, "spec": {**spec(), **GO}})

    def named() -> set[str]:
        return set(kubectl("-n", namespace, "get", "exp,cm,lease,role,rolebinding,sa", "--output", "name").split())

    before = named()
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    with OperatorProcess(namespace, tmp_path, as_operator(namespace, tmp_path)) as operator:
        cluster = Cluster(namespace)
        cluster.wait_for_phase("50%", state=operator.log)
        assert list(cluster.served()) == ["first.yaml"]
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        assert list(cluster.served()) == ["first.yaml"], "an apply must not change the content"
        kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(objects))
        left = named()
    assert left == before


def test_with_the_rights_of_the_manifests_and_of_two_one_leads(cluster_of: Cluster, tmp_path: Path) -> None:
    namespace = cluster_of.namespace
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(operators(namespace)))
    config = as_operator(namespace, tmp_path)
    with OperatorProcess(namespace, tmp_path, config) as first:
        second = OperatorProcess(namespace, tmp_path, config)
        second.start()
        cluster_of.apply("first", {**spec(), **GO})
        cluster_of.wait_for_phase("50%", state=first.log)
        eventually(lambda: "Stage50Percent" in kubectl("-n", namespace, "describe", "exp", "first"))
        eventually(second.follows, state=second.log)
        assert first.leads() and not second.leads()
        cluster_of.patch("first", enabled=False)
        first.kill()
        eventually(lambda: not cluster_of.in_force().enabled, state=second.log)
        eventually(second.leads, state=second.log)
        assert cluster_of.kinds("first") == ["move", "kill"]
        second.kill()
        assert "Forbidden" not in first.log() and "forbidden" not in first.log()


def test_a_kill_switch_waits_for_no_lease(cluster_of: Cluster, tmp_path: Path) -> None:
    """Another operator holds the lease, so the operator under test never becomes leader."""
    held = {"holderIdentity": "somebody", "leaseDurationSeconds": 15}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "mtorl-operator"}}
    ends = threading.Event()

    def hold() -> None:
        while not ends.wait(5):
            renewed = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            body = json.dumps({"spec": {"renewTime": renewed}})
            kubectl("-n", cluster_of.namespace, "patch", "lease", "mtorl-operator", "--type", "merge", "-p", body)

    kubectl("-n", cluster_of.namespace, "apply", "-f", "-", stdin=json.dumps({**lease, "spec": held}))
    holder = threading.Thread(target=hold)
    operator = OperatorProcess(cluster_of.namespace, tmp_path)
    try:
        holder.start()
        operator.start()
        eventually(operator.follows, state=operator.log)
        cluster_of.apply("first", {**spec(), **GO})
        cluster_of.wait_for_phase("50%", state=operator.log)
        cluster_of.patch("first", enabled=False)
        eventually(lambda: not cluster_of.in_force().enabled, state=operator.log)
        answer = httpx.post(f"{operator.url}/v1/in-force", json={"router": "one", "has": {}}, timeout=60)
        assert not Experiment.from_yaml(answer.json()["first.yaml"]).enabled, "routers must get the kill"
        assert answer.headers["mtorl-leads"] == "false" and not operator.leads()
    finally:
        ends.set()
        holder.join()
        operator.kill()


ARMS = [
    {"name": arm, "weight": 0.5, "endpoint": f"http://mtorl-{arm}-predictor/v1/models/{arm}:predict"}
    for arm in ("incumbent", "challenger")
]


def served_models(folder: Path, *patches: Object) -> Installation:
    """Install the dev overlay with a first version of both models, but without the operator."""
    made = Installation(folder)
    literals = [f"{arm}={arm}/first" for arm in ("incumbent", "challenger")]
    models = {"name": "mtorl-models", "behavior": "merge", "literals": literals}
    operator = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mtorl-operator"}}
    made.further = {
        "components": [os.path.relpath(MANIFESTS / "components" / "models", (folder / "any").resolve())],
        "configMapGenerator": [{**models, "options": {"disableNameSuffixHash": True}}],
        "patches": [{"patch": yaml.safe_dump({**operator, "$patch": "delete"})}, *patches],
    }
    made.apply("overlays/dev")
    made.wait_for_pods()
    return made


def incumbent_version(namespace: str) -> str:
    predictor = get(namespace, "inferenceservice", "mtorl-incumbent")["spec"]["predictor"]
    return str(predictor["annotations"]["mtorl-kubeflow/model"])


@contextmanager
def untrusted_webhook(namespace: str, folder: Path) -> Iterator[None]:
    """Let the API server distrust the certificate of KServe's webhook for one namespace."""
    key, certificate, name = folder / "ca.key", folder / "ca.crt", "inferenceservice.serving.kserve.io"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", "/CN=another", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = json.loads(kubectl("get", "validatingwebhookconfiguration", name, "-o", "json"))
    for webhook in theirs["webhooks"]:
        webhook["clientConfig"]["caBundle"] = base64.b64encode(certificate.read_bytes()).decode()
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    ours = {**theirs, "metadata": {"name": f"{namespace}-untrusted"}}
    kubectl("apply", "-f", "-", stdin=json.dumps(ours))
    try:
        yield
    finally:
        kubectl("delete", "validatingwebhookconfiguration", f"{namespace}-untrusted")


def test_an_untrusted_certificate_of_kserve_delays_a_hand_over_but_no_kill_switch(
    tmp_path: Path, ended: list[str]
) -> None:
    made = served_models(tmp_path)
    ended.append(made.namespace)
    cluster = Cluster(made.namespace)
    with OperatorProcess(made.namespace, tmp_path, as_operator(made.namespace, tmp_path)) as process:
        for name, part in (("spring", [0, 0.5]), ("summer", [0.5, 1])):
            arms = {"arms": ARMS} if name == "spring" else {}
            cluster.apply(name, spec(**arms, salt=name, layer_part=part))
            cluster.wait_for(USABLE, name=name, state=process.log)
            cluster.move(name, "50%")
            cluster.wait_for_phase("50%", name, state=process.log)
        with untrusted_webhook(made.namespace, tmp_path):
            cluster.move("spring", "promoted", "there is no log", force=True)
            cluster.wait_for_phase("promoted", "spring", state=process.log)
            eventually(lambda: cluster.condition("spring", "Settled")[0] == "Unknown", 120, state=process.log)
            assert "certificate" in json.dumps(cluster.status("spring")["conditions"])
            assert cluster.in_force("spring").arm("incumbent").endpoint == ARMS[1]["endpoint"], "all get the winner"
            for enabled in (False, True):
                cluster.patch("summer", enabled=enabled)
                eventually(lambda wanted=enabled: cluster.in_force("summer").enabled is wanted, state=process.log)
            assert incumbent_version(made.namespace) == "incumbent/first"
        cluster.wait_for(HANDED_OVER, "Settled", "spring", state=process.log, seconds=180)
    assert incumbent_version(made.namespace) == "challenger/first"


# No node has this name, so no rollout can complete until the test replaces the name.
NOWHERE = "- {op: add, path: /spec/predictor/nodeSelector, value: {kubernetes.io/hostname: mtorl-nowhere}}"


@contextmanager
def applied_all_the_time(files: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Apply files again and again, like a GitOps controller; yields a function that waits for three applies."""
    applied, ends = [0], threading.Event()

    def reapply() -> None:
        while not ends.is_set():
            kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-", stdin=files())
            applied[0] += 1

    def three_more() -> None:
        start = applied[0]
        eventually(lambda: applied[0] > start + 3)

    controller = threading.Thread(target=reapply)
    controller.start()
    try:
        yield three_more
    finally:
        ends.set()
        controller.join()


def test_a_promotion_is_a_commit_and_a_kill_switch_none_where_git_is_applied_all_the_time(
    tmp_path: Path, ended: list[str]
) -> None:
    made = served_models(
        tmp_path, {"target": {"kind": "InferenceService", "name": "mtorl-incumbent"}, "patch": NOWHERE}
    )
    ended.append(made.namespace)
    git, cluster = tmp_path / "overlays-dev", Cluster(made.namespace)
    fields = {name: value for name, value in spec(arms=ARMS).items() if name != "enabled"}
    first = {"apiVersion": "mtorl-kubeflow.github.io/v1alpha1", "kind": "Experiment", "spec": fields}
    first["metadata"] = {"name": "spring", "namespace": made.namespace}

    def files() -> str:
        objects = documents(kubectl("kustomize", str(git))).of_kind("InferenceService")
        return yaml.safe_dump_all([*objects, first])

    def version() -> tuple[str, str]:
        pods = get(made.namespace, "deployment", "mtorl-incumbent-predictor")["spec"]["template"]["metadata"]
        return incumbent_version(made.namespace), pods["annotations"]["mtorl-kubeflow/model"]

    def write_versions() -> None:
        command = [sys.executable, "-m", "cli.main", "model", "versions", "-n", made.namespace]
        subprocess.run([*command, "--write", str(git / "kustomization.yaml")], check=True, cwd=ROOT)

    config = as_operator(made.namespace, tmp_path)
    with OperatorProcess(made.namespace, tmp_path, config) as process, applied_all_the_time(files) as three_more:
        eventually(lambda: "spring" in kubectl("-n", made.namespace, "get", "exp"))
        cluster.move("spring", "50%")
        cluster.wait_for_phase("50%", "spring", state=process.log)
        cluster.patch("spring", enabled=False)
        eventually(lambda: not cluster.in_force("spring").enabled, state=process.log)
        three_more()
        assert not cluster.in_force("spring").enabled and cluster.phase("spring") == "50%"
        assert cluster.kinds("spring") == ["move", "kill"]
        cluster.patch("spring", enabled=True)
        eventually(lambda: cluster.in_force("spring").enabled, state=process.log)
        cluster.move("spring", "promoted", "there is no log", force=True)
        cluster.wait_for(("False", "NotInGit"), "Settled", "spring", state=process.log, seconds=120)
        generation = get(made.namespace, "inferenceservice", "mtorl-incumbent")["metadata"]["generation"]
        three_more()
        assert version() == ("incumbent/first", "incumbent/first"), "the operator must not fight git"
        assert get(made.namespace, "inferenceservice", "mtorl-incumbent")["metadata"]["generation"] == generation
        assert cluster.in_force("spring").arm("incumbent").endpoint == ARMS[1]["endpoint"], "users must get the winner"
        (node, *_) = listed("default", "node")
        text = (git / "kustomization.yaml").read_text()
        (git / "kustomization.yaml").write_text(text.replace("mtorl-nowhere", node["metadata"]["name"]))
        write_versions()
        cluster.wait_for(HANDED_OVER, "Settled", "spring", state=process.log, seconds=120)
        three_more()
        assert version() == ("challenger/first", "challenger/first")
        assert cluster.in_force("spring").arm("incumbent").endpoint == ARMS[0]["endpoint"]
    assert not kubectl("diff", "-k", str(git), allowed=(0, 1))
    with OperatorProcess(made.namespace, tmp_path, config) as process:
        cluster.move("spring", "rolled back", "support calls")
        cluster.wait_for(("True", "RolledBack"), "Settled", "spring", state=process.log, seconds=120)
        assert version() == ("incumbent/first", "incumbent/first")
        assert "Forbidden" not in process.log() and "forbidden" not in process.log()
    write_versions()
    assert "incumbent=incumbent/first" in (git / "kustomization.yaml").read_text()
    assert [event["to"] or event["kind"] for event in cluster.status("spring")["history"]] == [
        "50%", "kill", "resume", "promoted", "handed over", "rolled back"
    ]  # fmt: skip


def as_operator(namespace: str, folder: Path) -> Path:
    config = folder / "kubeconfig"
    content = yaml.safe_load(kubectl("config", "view", "--raw", "--minify"))
    token = kubectl("-n", namespace, "create", "token", "mtorl-operator").strip()
    content["users"] = [{"name": content["users"][0]["name"], "user": {"token": token}}]
    config.write_text(yaml.safe_dump(content))
    return config


def operators(namespace: str, *also: tuple[str, str]) -> list[Object]:
    """Return the operator's service account, role, role binding and lease, and the objects in `also`."""
    wanted = {(kind, "mtorl-operator") for kind in ("ServiceAccount", "Role", "RoleBinding", "Lease")} | set(also)
    made = [o for o in rendered("overlays/dev") if (o["kind"], o["metadata"]["name"]) in wanted]
    for subject in (subject for o in made for subject in o.get("subjects", ())):
        subject["namespace"] = namespace
    return [{**o, "metadata": {**o["metadata"], "namespace": namespace}} for o in made]


def said_by(router: Process, field: str) -> set[str]:
    answers = router.predict(*(instance(f"user-{number}", request_id=f"{time.time_ns()}") for number in range(20)))
    return {answer[field] for answer in answers}


def arms_of(router: Process) -> set[str]:
    return said_by(router, "arm") - {"outside"}

"""Tests that two teams on one cluster (manifests/examples/two-teams) cannot affect each other."""

import json
import re
import uuid

import pytest

from tests.cluster.conftest import SECRETS
from tests.cluster.kubectl import Object, get, kubectl, listed, serves
from tests.manifests.conftest import MANIFESTS, render
from tests.waiting import eventually

pytestmark = pytest.mark.cluster
RUN = uuid.uuid4().hex[:6]
ADS, SHOP = f"mtorl-ads-{RUN}", f"mtorl-shop-{RUN}"

# kubectl options that select a person or a service account as the caller
Subject = list[str]
PEOPLE = {team: ["--as=ann", f"--as-group=team-{team}", "--as-group=system:authenticated"] for team in ("ads", "shop")}


def answer(subject: Subject, *arguments: str, stdin: str | None = None) -> str:
    """Return kubectl's output, or "refused" if authorization or admission rejects the request."""
    try:
        return kubectl(*subject, *arguments, stdin=stdin)
    except AssertionError as error:
        if re.search(r"\(Forbidden\)|forbidden|exceeded quota", str(error)):
            return "refused"
        raise


def account(namespace: str, name: str) -> Subject:
    """Return kubectl options with the token of a service account instead of the client certificate."""
    server = kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    token = kubectl("-n", namespace, "create", "token", name).strip()
    return ["--kubeconfig=/dev/null", f"--server={server}", "--insecure-skip-tls-verify", f"--token={token}"]


@pytest.fixture(scope="module")
def teams(ended: list[str]) -> dict[str, Subject]:
    """Install both teams; returns every user and account of the team `ads` by name."""
    if not serves("monitoring.coreos.com/v1"):
        pytest.skip("the cluster of KUBECONFIG has no CRDs of the Prometheus Operator")
    ended += [ADS, SHOP, f"monitoring-{RUN}"]
    kubectl("create", "namespace", ended[-1])

    def moved(folder: str) -> str:
        return re.sub(
            r"\b(namespace|name): (mtorl-ads|mtorl-shop|monitoring)$", rf"\1: \2-{RUN}", render(folder), flags=re.M
        )

    kubectl("apply", "-f", "-", stdin=moved("examples/two-teams/platform"))
    for team, namespace in (("ads", ADS), ("shop", SHOP)):
        for name, values in SECRETS.items():
            pairs = [f"--from-literal={key}={value}" for key, value in values.items()]
            assert answer(PEOPLE[team], "-n", namespace, "create", "secret", "generic", name, *pairs) != "refused"
        assert answer(PEOPLE[team], "apply", "-f", "-", stdin=moved(f"examples/two-teams/{team}")) != "refused"
        assert (
            answer(PEOPLE[team], "-n", namespace, "apply", "-f", f"{MANIFESTS}/examples/experiment.yaml") != "refused"
        )
    accounts = [str(one["metadata"]["name"]) for one in listed(ADS, "serviceaccount")]
    return {"ann": PEOPLE["ads"], **{name: account(ADS, name) for name in accounts}}


def test_no_subject_of_a_team_has_a_right_in_the_others_namespace(teams: dict[str, Subject]) -> None:
    stranger = ["--as=system:serviceaccount:default:stranger"]

    def rights(one: Subject, namespace: str) -> set[tuple[str, ...]]:
        return {tuple(line.split()) for line in answer(one, "auth", "can-i", "--list", "-n", namespace).splitlines()}

    for name, one in teams.items():
        assert rights(one, SHOP) <= rights(stranger, SHOP), name
    assert ("experiments.mtorl-kubeflow.github.io", "[]", "[]") in {line[:3] for line in rights(teams["ann"], ADS)}


ATTACKS = {
    "see": f"get experiments,pods,events -n {SHOP}",
    "see all": "get experiments --all-namespaces",
    "stop": f'patch exp mtorl-vs-incumbent -n {SHOP} --type=merge -p {{"spec":{{"enabled":false}}}}',
    "stop routers": f"scale statefulset mtorl-router --replicas=0 -n {SHOP}",
    "stop all users": f"patch configmap mtorl-experiment -n {SHOP} --type=merge -p {{\"data\":{{\"x.off\":\"x\"}}}}",
    "evict": f"delete pod --all -n {SHOP}",
    "read a password": f"get secret mtorl-redis -n {SHOP}",
    "read logs": f"logs mtorl-router-0 -n {SHOP}",
    "run a command": f"exec mtorl-router-0 -n {SHOP} -- env",
    "take an identity": f"create token mtorl-operator -n {SHOP}",
    "bind a role": f"create rolebinding mine --clusterrole=view --user=ann -n {SHOP}",
    "pose as the gateway": f"label namespace {ADS} mtorl-kubeflow/gateway=true",
    "pose as Prometheus": f"label namespace {ADS} mtorl-kubeflow/monitoring=true",
    "leave restricted": f"label namespace {ADS} --overwrite pod-security.kubernetes.io/enforce=privileged",
    "leave the quota": f"delete resourcequota mtorl-team -n {ADS}",
    "leave the limits": f"delete limitrange mtorl-team -n {ADS}",
    "claim the other's host": f"get virtualservices.networking.istio.io -n {ADS}",
    "change the resource": "delete crd experiments.mtorl-kubeflow.github.io",
    "widen the role": "patch clusterrole mtorl-install --type=json -p [{\"op\":\"remove\",\"path\":\"/rules/0\"}]",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_other_team_is_refused(attack: str, teams: dict[str, Subject]) -> None:
    for name in ("ann", "mtorl-operator", "mtorl-jobs"):
        assert answer(teams[name], *ATTACKS[attack].split(" ")) == "refused", name


SECURITY = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
SECURITY |= {"seccompProfile": {"type": "RuntimeDefault"}}
SHELL = {"name": "shell", "image": "shell", "securityContext": SECURITY}
LARGE = {**SHELL, "resources": {"limits": {"cpu": "7", "memory": "1Gi"}}}
DISK = {"name": "disk", "hostPath": {"path": "/"}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
ADMITTED: dict[str, tuple[bool, str, Object]] = {
    "a pod that says nothing of its size": (True, "Pod", {"containers": [SHELL]}),
    "more CPUs than the quota": (False, "Pod", {"containers": [LARGE]}),
    "a disk of the node": (False, "Pod", {"containers": [SHELL], "volumes": [DISK]}),
    "a small volume": (True, "PersistentVolumeClaim", CLAIM),
    "a large volume": (False, "PersistentVolumeClaim", CLAIM | {"resources": {"requests": {"storage": "51Gi"}}}),
    "an address": (False, "Service", {"type": "LoadBalancer", "ports": [{"port": 80}]}),
}  # fmt: skip


@pytest.mark.parametrize("what", ADMITTED)
def test_a_team_cannot_starve_the_other_or_get_around_admission(what: str, teams: dict[str, Subject]) -> None:
    admitted, kind, spec = ADMITTED[what]
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "tried"}, "spec": spec}
    said = answer(teams["ann"], "-n", ADS, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(made))
    assert (said != "refused") is admitted, said


def test_a_volume_of_the_other_team_is_not_mounted(teams: dict[str, Subject]) -> None:
    """A second claim to the other team's volume is created, but stays pending."""
    theirs = str(eventually(lambda: get(SHOP, "pvc", "mtorl-data")["spec"].get("volumeName")))
    spec = {**CLAIM, "volumeName": theirs}
    made = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "stolen"}, "spec": spec}
    assert answer(teams["ann"], "-n", ADS, "create", "-f", "-", stdin=json.dumps(made)) != "refused"
    eventually(lambda: "already bound to a different claim" in str(listed(ADS, "event")))
    assert get(ADS, "pvc", "stolen")["status"]["phase"] == "Pending"


def test_no_pod_of_a_team_reaches_the_other(teams: dict[str, Subject]) -> None:
    """Compares only selectors and labels; tests/cluster/test_running.py tests real connections."""
    labels = get("default", "namespace", ADS)["metadata"]["labels"]
    policies = listed(SHOP, "networkpolicy")
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [policy["spec"] for policy in policies]
    peers = [peer for policy in policies for rule in policy["spec"].get("ingress", []) for peer in rule["from"]]
    for peer in peers:
        wanted = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": SHOP}})["matchLabels"]
        assert not wanted.items() <= labels.items(), peer

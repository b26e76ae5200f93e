"""Helper that installs the project on a real node, and runs callers that request decisions from its router."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import yaml

from tests.cluster.conftest import SECRETS, Installation
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.waiting import eventually

CALLER = (Path(__file__).parent / "caller.py").read_text()
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 4).close()"
DECISIONS = """
from pathlib import Path
from serving.decision_log.segments import read
for record in read(Path("/var/lib/mtorl/spool"), "decision"):
    print(record["decision_id"])
"""
UPLOADED = """
import os
from monitoring.decision_log import DecisionLog
with DecisionLog.of(os.environ["MTORL_LAKE"]).opened() as db:
    for row in db.sql("SELECT decision_id FROM decision_log").fetchall():
        print(*row)
"""
USERS = 400
# Simulate few users and train one epoch, so that the bootstrap takes less than a minute. Request few enough resources
# for a node of two CPUs.
BOOTSTRAP = f"""
- {{op: add, path: /spec/jobTemplate/spec/template/spec/containers/0/args/-, value: --parameter=users={USERS}}}
- {{op: add, path: /spec/jobTemplate/spec/template/spec/containers/0/args/-, value: --parameter=epochs=1}}
- {{op: replace, path: /spec/jobTemplate/spec/template/spec/containers/0/resources/requests/cpu, value: 100m}}
"""
IDLE = """
apiVersion: v1
kind: Pod
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
  - name: main
    command: [sleep, infinity]
    resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {cpu: "1", memory: 256Mi}}
    securityContext:
      runAsNonRoot: true
      runAsUser: 10001
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
"""
Answers = list[dict[str, Any]]


class Calls(NamedTuple):
    """A running caller process, and the file to which it writes the answers of the router."""

    process: subprocess.Popen[str]
    said: Path


class Running(Installation):
    """An installation that runs the given images, and a second namespace, from which callers send requests.

    The second namespace stands for that of the gateway.
    """

    def __init__(self, folder: Path, images: list[Object], namespace: str = "") -> None:
        super().__init__(folder, namespace=namespace)
        self.gateway = f"{self.namespace}-gateway"
        self.token = SECRETS["mtorl-router"]["tokens"]  # of the callers
        self.further = {
            "images": images,
            "patches": [{"target": {"kind": "CronJob", "name": "mtorl-bootstrap"}, "patch": BOOTSTRAP}],
        }
        self.image = image_of(images, "router")

    def install(self, overlay: str) -> None:
        """Apply an overlay, and start an idle pod in the gateway's namespace, in which callers can run."""
        kubectl("create", "namespace", self.gateway)
        kubectl("label", "namespace", self.gateway, "mtorl-kubeflow/gateway=true")
        self.apply(overlay)
        self.idle_pod(self.gateway, "caller")

    def bootstrap(self) -> None:
        """Run the bootstrap job, which trains first models on simulated users, and wait until the models are ready."""
        ns, log = self.namespace, ("logs", "-l", "job-name=mtorl-bootstrap", "--tail=20")
        kubectl("-n", ns, "create", "job", "mtorl-bootstrap", "--from=cronjob/mtorl-bootstrap")
        eventually(
            lambda: get(ns, "job", "mtorl-bootstrap")["status"].get("succeeded"),
            900,
            lambda: kubectl("-n", ns, *log, allowed=(0, 1)),
        )
        kubectl("-n", ns, "wait", "--for=condition=Ready", "inferenceservice", "--all", "--timeout=240s")

    def idle_pod(self, namespace: str, name: str) -> None:
        pod = yaml.safe_load(IDLE)
        pod["metadata"] = {"name": name}
        pod["spec"]["containers"][0]["image"] = self.image
        kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump(pod))
        kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")

    def calling(self, seconds: float, prefix: str, host: str = "", *cost: str) -> Calls:
        """Start a caller in the gateway's namespace.

        The caller sends its requests to the router's Service, or to `host` if it is given, and reports `cost` if it is
        given.
        """
        address = f"http://{host or f'mtorl-router.{self.namespace}'}/v1/models/ads:predict"
        words = ["kubectl", "-n", self.gateway, "exec", "-i", "caller", "--", "python", "-", address]
        words += [self.token, str(seconds), prefix, *cost]
        # Write to a file instead of a pipe: the caller would block as soon as an unread pipe is full.
        path = self.folder / f"answers-{uuid4().hex}"
        with path.open("w") as said:
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=said, text=True)
        assert process.stdin
        process.stdin.write(CALLER)
        process.stdin.close()
        return Calls(process, path)

    def call(self, seconds: float, prefix: str, host: str = "") -> Answers:
        return answers(self.calling(seconds, prefix, host))

    def address(self, router: str) -> str:
        return f"{get(self.namespace, 'pod', router)['status'].get('podIP', '')}:8080"

    def in_router(self, code: str, *arguments: str, pod: str = "mtorl-router-0") -> str:
        """Run Python code in the container of a router; returns its output."""
        container = ("exec", pod, "-c", "router", "--")
        return kubectl("-n", self.namespace, *container, "python", "-c", code, *arguments)

    def logged(self, pod: str = "mtorl-router-0") -> set[str]:
        return set(self.in_router(DECISIONS, pod=pod).split())

    def uploaded(self) -> set[str]:
        """Return the ids of all decisions that the routers have uploaded to the lake."""
        return set(self.in_router(UPLOADED).split())

    def restarts(self) -> dict[str, int]:
        """Return the number of restarts of each container that was restarted at least once."""
        return {
            f"{pod['metadata']['name']}/{one['name']}": one["restartCount"]
            for pod in listed(self.namespace, "pod")
            for kind in ("initContainerStatuses", "containerStatuses")
            for one in pod["status"].get(kind, [])
            if one["restartCount"]
        }

    def reaches(self, pod: str, host: str, port: int) -> bool:
        """Return whether a pod "NAMESPACE/NAME" can open a connection to a host and port."""
        namespace, name = pod.split("/")
        words = ["kubectl", "-n", namespace, "exec", name, "--", "python", "-c", CONNECT, host, str(port)]
        return subprocess.run(words, capture_output=True).returncode == 0


def image_of(images: list[Object], name: str) -> str:
    """Return the full name of one of the project's images, as kustomize writes it for these `images`."""
    (found,) = [one for one in images if one["name"].endswith(f"/{name}")]
    return found.get("newName", found["name"]) + (f"@{found['digest']}" if "digest" in found else f":{found['newTag']}")


def answers(calls: Calls) -> Answers:
    """Wait until a caller has ended; returns the answers that it got from the router."""
    assert calls.process.wait(timeout=600) == 0
    return [json.loads(line) for line in calls.said.read_text().splitlines()]


def decided(said: Answers) -> Answers:
    """Return the answers in which a model decided; the others are errors or default actions."""
    return [one for one in said if one["status"] == 200 and one["fallback_reason"] is None]

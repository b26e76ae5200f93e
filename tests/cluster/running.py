"""Installs the project on a real node, with callers that request decisions from its router."""

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
# Use few users and one epoch, so that the bootstrap job takes less than a minute on two CPUs.
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
    process: subprocess.Popen[str]
    said: Path


class Running(Installation):
    """An installation of the given images, with a second namespace for the pods that call it."""

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
        kubectl("create", "namespace", self.gateway)
        kubectl("label", "namespace", self.gateway, "mtorl-kubeflow/gateway=true")
        self.apply(overlay)
        self.idle_pod(self.gateway, "caller")

    def bootstrap(self) -> None:
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
        """Start a caller that sends requests to `host`, by default the router's Service."""
        address = f"http://{host or f'mtorl-router.{self.namespace}'}/v1/models/ads:predict"
        words = ["kubectl", "-n", self.gateway, "exec", "-i", "caller", "--", "python", "-", address]
        words += [self.token, str(seconds), prefix, *cost]
        # Write to a file: with a full pipe, the caller would block.
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
        container = ("exec", pod, "-c", "router", "--")
        return kubectl("-n", self.namespace, *container, "python", "-c", code, *arguments)

    def logged(self, pod: str = "mtorl-router-0") -> set[str]:
        return set(self.in_router(DECISIONS, pod=pod).split())

    def uploaded(self) -> set[str]:
        return set(self.in_router(UPLOADED).split())

    def restarts(self) -> dict[str, int]:
        return {
            f"{pod['metadata']['name']}/{one['name']}": one["restartCount"]
            for pod in listed(self.namespace, "pod")
            for kind in ("initContainerStatuses", "containerStatuses")
            for one in pod["status"].get(kind, [])
            if one["restartCount"]
        }

    def reaches(self, pod: str, host: str, port: int) -> bool:
        namespace, name = pod.split("/")
        words = ["kubectl", "-n", namespace, "exec", name, "--", "python", "-c", CONNECT, host, str(port)]
        return subprocess.run(words, capture_output=True).returncode == 0


def image_of(images: list[Object], name: str) -> str:
    (found,) = [one for one in images if one["name"].endswith(f"/{name}")]
    return found.get("newName", found["name"]) + (f"@{found['digest']}" if "digest" in found else f":{found['newTag']}")


def answers(calls: Calls) -> Answers:
    assert calls.process.wait(timeout=600) == 0
    return [json.loads(line) for line in calls.said.read_text().splitlines()]


def decided(said: Answers) -> Answers:
    return [one for one in said if one["status"] == 200 and one["fallback_reason"] is None]

import json
import subprocess
from typing import Any

import yaml

from mtorl.experiment.experiment import Experiment
from tests.cluster.kubectl import Object, get, kubectl
from tests.waiting import eventually


class Cluster:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def _kubectl(self, *words: str, stdin: str | None = None) -> str:
        return kubectl("-n", self.namespace, *words, stdin=stdin)

    def apply(self, name: str, fields: Object) -> None:
        made = {"apiVersion": "mtorl-kubeflow.github.io/v1alpha1", "kind": "Experiment", "metadata": {"name": name}}
        self._kubectl("apply", "-f", "-", stdin=json.dumps({**made, "spec": fields}))

    def patch(self, name: str, **fields: Any) -> None:
        self._kubectl("patch", "exp", name, "--type", "merge", "-p", json.dumps({"spec": fields}))

    def move(self, name: str, to: str, reason: str = "go", **more: Any) -> None:
        self.patch(name, move={"to": to, "reason": reason, **more})

    def refused(self, name: str, **fields: Any) -> str:
        words = ["-n", self.namespace, "patch", "exp", name, "--type", "merge", "-p", json.dumps({"spec": fields})]
        done = subprocess.run(["kubectl", *words], capture_output=True, text=True)
        assert done.returncode, done.stdout
        return done.stderr

    def status(self, name: str) -> Object:
        found: Object = get(self.namespace, "exp", name).get("status", {})
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase"))

    def kinds(self, name: str) -> list[str]:
        return [event["kind"] for event in self.status(name)["history"]]

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        found = [one for one in self.status(name).get("conditions", ()) if one["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def wait_for(self, what: tuple[str, str], kind: str = "Accepted", name: str = "first", **until: Any) -> None:
        eventually(lambda: self.condition(name, kind) == what, **until)

    def wait_for_phase(self, phase: str, name: str = "first", **until: Any) -> None:
        eventually(lambda: self.phase(name) == phase, **until)

    def served(self) -> dict[str, str]:
        found: dict[str, str] = get(self.namespace, "cm", "mtorl-experiment")["data"]
        return found

    def in_force(self, name: str = "first") -> Experiment:
        return Experiment.from_dict(yaml.safe_load(self.served()[f"{name}.yaml"]))

"""What people do with kubectl to the experiments of a namespace."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import yaml

from mtorl.experiment.experiment import Experiment
from tests.cluster.kubectl import Object, get, kubectl


class Cluster:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def apply(self, name: str, fields: Object, allowed: tuple[int, ...] = (0,)) -> str:
        made = {"apiVersion": "mtorl-kubeflow.github.io/v1alpha1", "kind": "Experiment", "metadata": {"name": name}}
        return kubectl(
            "-n", self.namespace, "apply", "-f", "-", stdin=json.dumps({**made, "spec": fields}), allowed=allowed
        )

    def patch(self, name: str, **fields: Any) -> None:
        kubectl("-n", self.namespace, "patch", "exp", name, "--type", "merge", "-p", json.dumps({"spec": fields}))

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

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        for one in self.status(name).get("conditions", ()):
            if one["type"] == kind:
                return one["status"], one["reason"]
        return "", ""

    def served(self) -> dict[str, str]:
        found: dict[str, str] = get(self.namespace, "cm", "mtorl-experiment")["data"]
        return found

    def in_force(self, name: str = "first") -> Experiment:
        return Experiment.from_dict(yaml.safe_load(self.served()[f"{name}.yaml"]))

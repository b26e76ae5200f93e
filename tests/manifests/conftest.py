"""Fixtures with the manifests; each overlay and combination of components is rendered once."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import app
from mtorl.experiment.experiment import Experiment
from tests.repository import ROOT

MANIFESTS = ROOT / "manifests"
FOLDERS = [
    f"{kind}/{path.parent.name}"
    for kind in ("overlays", "tests")
    for path in sorted((MANIFESTS / kind).glob("*/kustomization.yaml"))
]

LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component", "part-of", "managed-by")}
VALIDATOR = Path(os.environ.get("VALIDATOR", ROOT.parent / "shared/kubernetes/validate_manifests.py"))
CRDS = Path(os.environ.get("CRDS", VALIDATOR.with_name("crds-bundle.json.gz")))


class Objects(list[dict[str, Any]]):
    def of_kind(self, *kinds: str) -> Objects:
        return Objects(o for o in self if o["kind"] in kinds)

    def named(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [o for o in self.of_kind(kind) if o["metadata"]["name"] == name]
        return found

    def config_map(self, prefix: str) -> dict[str, Any]:
        (found,) = [o for o in self.of_kind("ConfigMap") if o["metadata"]["name"].startswith(prefix)]
        return found

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the pods of all workloads, also those that KServe and Spark would create."""
        pods = []
        runtimes = {o["metadata"]["name"]: o["spec"] for o in self.of_kind("ServingRuntime")}
        for o in self:
            spec = o.get("spec") or {}
            if o["kind"] in ("Deployment", "StatefulSet"):
                pods.append((title(o), spec["template"]["spec"]))
            elif o["kind"] == "CronJob":
                pods.append((title(o), spec["jobTemplate"]["spec"]["template"]["spec"]))
            elif o["kind"] == "InferenceService":
                pods.append((title(o), _model_pod(runtimes[spec["predictor"]["model"]["runtime"]], spec["predictor"])))
            elif o["kind"] == "ScheduledSparkApplication":
                pods += [(f"{title(o)}/{role}", _spark_pod(spec["template"], role)) for role in ("driver", "executor")]
        return pods

    def pod_spec(self, name: str) -> dict[str, Any]:
        return dict(self.pods())[name]


@functools.cache
def render(folder: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: it renders the manifests")
    done = subprocess.run(["kubectl", "kustomize", str(MANIFESTS / folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> Objects:
    """Parse YAML with libyaml, which is over ten times as fast as the loader in Python."""
    return Objects(yaml.load_all(text, yaml.CSafeLoader))


def rendered(folder: str) -> Objects:
    return documents(render(folder))


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> Objects:
    """Return the objects of each overlay or combination of components in turn."""
    return rendered(request.param)


@pytest.fixture
def production() -> Objects:
    return rendered("overlays/production")


def title(o: dict[str, Any]) -> str:
    return f"{o['kind']}/{o['metadata']['name']}"


def _model_pod(runtime: dict[str, Any], predictor: dict[str, Any]) -> dict[str, Any]:
    """Return approximately the pod that KServe creates. tests/cluster tests the real pod."""
    (container,) = runtime["containers"]
    claim, _, path = predictor["model"]["storageUri"].removeprefix("pvc://").partition("/")
    (source,) = [v for v in predictor["volumes"] if v["name"] == "kserve-pvc-source"]  # KServe reuses this name
    assert source["persistentVolumeClaim"]["claimName"] == claim
    mount = {"name": source["name"], "mountPath": "/mnt/models", "subPath": path, "readOnly": True}
    served = {**container, "volumeMounts": [*container["volumeMounts"], mount]}
    return {**runtime, **predictor, "containers": [served], "volumes": [*runtime["volumes"], *predictor["volumes"]]}


def _spark_pod(app: dict[str, Any], role: str) -> dict[str, Any]:
    said, pod = app[role], copy.deepcopy(app[role]["template"]["spec"])
    (container,) = pod["containers"]
    container["image"] = app["image"]
    memory = said["memory"].replace("g", "Gi")  # Java's unit for GiB
    container["resources"] = {
        "requests": {"cpu": str(said.get("coreRequest", said["cores"])), "memory": memory},
        "limits": {"cpu": said["coreLimit"], "memory": memory},
    }
    return {**pod, "serviceAccountName": said["serviceAccount"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def assert_restricted(pod: dict[str, Any], where: str = "") -> None:
    for container in containers(pod):
        security = {**pod.get("securityContext", {}), **container["securityContext"]}
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        {"Exists": e["key"] in labels, "In": labels.get(e["key"]) in e.get("values", [])}[e["operator"]]
        for e in selector.get("matchExpressions", [])
    )


def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    return _matches(policy["spec"]["podSelector"], labels)


def allowed(policies: Objects, source: dict[str, str], target: dict[str, str], port: int | str) -> bool:
    """Return whether the policies allow a connection, both at its source and at its target."""

    def end(direction: str, own: dict[str, str], other: dict[str, str]) -> bool:
        peers = "to" if direction == "Egress" else "from"
        return any(
            selects(policy, own)
            and any(
                "podSelector" in p and "namespaceSelector" not in p and _matches(p["podSelector"], other)
                for p in rule.get(peers, [])
            )
            and port in [p["port"] for p in rule.get("ports", [])]
            for policy in policies
            if direction in policy["spec"]["policyTypes"]
            for rule in policy["spec"].get(direction.lower(), [])
        )

    return end("Egress", source, target) and end("Ingress", target, source)


def command_of(args: list[str]) -> tuple[Any, list[str]]:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, args = command.commands[args[0]], args[1:]
    return command, args


def parsed(args: list[str]) -> dict[str, Any]:
    """Parse arguments with the real command line, without running the command."""
    command, rest = command_of(args)
    parameters: dict[str, Any] = command.make_context(command.name, list(rest)).params
    return parameters


def experiment_of(file: Path) -> Experiment:
    made = yaml.safe_load(file.read_text())
    spec = {key: value for key, value in made["spec"].items() if key != "ramp"}
    return Experiment.from_dict({"name": made["metadata"]["name"], "stage": "shadow", **spec})


@pytest.fixture
def router(production: Objects) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(production.config_map("mtorl-router-")["data"]["router.yaml"])
    return config


def mounts_of(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}

"""The rendered manifests, once for each overlay and combination."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
FOLDERS = [
    f"{kind}/{path.parent.name}"
    for kind in ("overlays", "tests")
    for path in sorted((MANIFESTS / kind).glob("*/kustomization.yaml"))
]

Objects = list[dict[str, Any]]


@functools.cache
def render(folder: str) -> str:
    """What `kubectl kustomize` makes of a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: it renders the manifests")
    done = subprocess.run(["kubectl", "kustomize", str(MANIFESTS / folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> Objects:
    """The objects of each overlay and combination in turn."""
    return list(yaml.safe_load_all(render(request.param)))


@pytest.fixture
def production() -> Objects:
    """The objects of overlays/production."""
    return list(yaml.safe_load_all(render("overlays/production")))


def of_kind(objects: Objects, *kinds: str) -> Objects:
    """The objects of some kinds."""
    return [o for o in objects if o["kind"] in kinds]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (found,) = [o for o in of_kind(objects, kind) if o["metadata"]["name"] == name]
    return found


def title(o: dict[str, Any]) -> str:
    """Kind and name, for messages."""
    return f"{o['kind']}/{o['metadata']['name']}"


def pod_specs(objects: Objects) -> list[tuple[str, dict[str, Any]]]:
    """Every pod that the objects lead to, KServe's too: runtime and predictor merged as its controller does."""
    pods = []
    runtimes = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "ServingRuntime")}
    for o in objects:
        spec = o.get("spec") or {}
        if o["kind"] in ("Deployment", "StatefulSet"):
            pods.append((title(o), spec["template"]["spec"]))
        elif o["kind"] == "CronJob":
            pods.append((title(o), spec["jobTemplate"]["spec"]["template"]["spec"]))
        elif o["kind"] == "InferenceService":
            pods.append((title(o), {**runtimes[spec["predictor"]["model"]["runtime"]], **spec["predictor"]}))
    return pods


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod."""
    return [*pod["containers"], *pod.get("initContainers", [])]

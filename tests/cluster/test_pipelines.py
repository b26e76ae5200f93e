"""Tests that the pods of all pipeline steps are admitted under Pod Security "restricted" and a quota."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import Installation
from tests.cluster.kubectl import Object, kubectl, refusal
from tests.manifests.conftest import MANIFESTS, documents
from tests.waiting import eventually

pytestmark = pytest.mark.cluster

# KFP 2.17 adds these security settings to every step.
KFP = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESOURCES = {
    f"resource{resource.title()}{kind}": (f"{kind.lower()}s", resource)
    for kind in ("Request", "Limit")
    for resource in ("cpu", "memory")
}


def steps() -> Iterator[Any]:
    """Yield the container and the Kubernetes settings of each step of each compiled pipeline."""
    for path in sorted(MANIFESTS.glob("pipelines/*/mtorl-*.yaml")):
        spec, platform = [*documents(path.read_text()), {}][:2]
        pods = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        for name, executor in spec["deploymentSpec"]["executors"].items():
            yield pytest.param(
                executor["container"], pods.get(name, {}), id=f"{path.stem}-{name.removeprefix('exec-')}"
            )


def pod(container: Object, said: Object) -> Object:
    """Return a step's pod as KFP's driver would build it."""
    security = said.get("securityContext", {})
    numbers = {key: value if isinstance(value, bool) else int(value) for key, value in security.items()}
    resources = container.get("resources", {})
    given: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for key, (kind, resource) in RESOURCES.items():
        if key in resources:
            given[kind][resource] = resources[key]
    if accelerator := resources.get("accelerator"):
        given["limits"][accelerator["resourceType"]] = accelerator["resourceCount"]
    mounts = {one["mountPath"]: one["pvcNameParameter"]["runtimeValue"]["constant"] for one in said.get("pvcMount", [])}
    main = {
        "name": "main",
        **{key: container[key] for key in ("image", "command", "args", "env") if key in container},
        "resources": given,
        "securityContext": {**KFP, **numbers},
        "volumeMounts": [{"name": claim, "mountPath": path} for path, claim in mounts.items()],
    }
    fields = [(one["name"], one["fieldPath"]) for one in said.get("fieldPathAsEnv", [])]
    main["env"] = [
        *main.get("env", []),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields),
    ]
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in mounts.values()]
    return {"containers": [main], "volumes": volumes, "tolerations": said.get("tolerations", [])}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Installation:
    made = Installation(tmp_path_factory.mktemp("profile"))
    ended.append(made.namespace)
    return made


@pytest.mark.parametrize(("container", "said"), list(steps()))
def test_a_step_is_admitted(container: Object, said: Object, profile: Installation) -> None:
    assert not refusal(profile.namespace, pod(container, said))
    mounted = [one["mountPath"] for one in said.get("pvcMount", [])]
    assert mounted == ["/mnt/mtorl"], "a step must mount nothing else"


def test_argos_containers_without_resources_need_the_limit_range(profile: Installation) -> None:
    security = {**KFP, "runAsNonRoot": True, "runAsUser": 10001}
    containers = [{"name": name, "image": "argoexec", "securityContext": security} for name in ("init", "wait")]
    assert "must specify" in refusal(profile.namespace, {"containers": containers})
    kubectl("-n", profile.namespace, "apply", "-f", str(MANIFESTS / "pipelines" / "platform" / "limits.yaml"))
    eventually(lambda: not refusal(profile.namespace, {"containers": containers}))

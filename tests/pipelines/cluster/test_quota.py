"""Tests that a night's largest resource requests fit the shipped ResourceQuota and LimitRange."""

import functools
from decimal import Decimal
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from kubernetes.utils.quantity import parse_quantity

from tests.manifests.conftest import documents
from tests.repository import ROOT

PIPELINES = ROOT / "manifests" / "pipelines"
COMPILED = sorted(PIPELINES.glob("compiled/*.yaml"))
PLATFORM = PIPELINES / "platform"
NEEDED = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
Use = dict[str, Decimal]


@functools.cache
def spec_of(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = documents(path.read_text())[0]
    return spec


def uses(path: Path) -> dict[str, Use]:
    """Return the resources of each step's pod: its own container, and Argo's sidecar."""
    beside = default_of_a_container()
    found = {}
    for name, executor in spec_of(path)["deploymentSpec"]["executors"].items():
        resources = executor["container"].get("resources", {})
        use = {
            f"{kind}s.{unit.lower()}": parse_quantity(resources[f"resource{unit}{kind.title()}"])
            for kind in ("request", "limit")
            for unit in ("Cpu", "Memory")
            if f"resource{unit}{kind.title()}" in resources
        }
        accelerator = resources.get("accelerator")
        if accelerator:
            use[f"requests.{accelerator['resourceType']}"] = parse_quantity(accelerator["resourceCount"])
        found[name.removeprefix("exec-")] = {key: value + beside.get(key, 0) for key, value in use.items()}
    return found


def default_of_a_container() -> Use:
    (limit,) = yaml.safe_load((PLATFORM / "limits.yaml").read_text())["spec"]["limits"]
    kinds = {"requests": limit["defaultRequest"], "limits": limit["default"]}
    return {f"{kind}.{unit}": parse_quantity(text) for kind, given in kinds.items() for unit, text in given.items()}


def predecessors(path: Path) -> dict[str, set[str]]:
    """Return, for each step, the steps that must end before it starts."""
    root = spec_of(path)
    before: dict[str, set[str]] = {}

    def steps_in(graph: dict[str, Any]) -> dict[str, list[str]]:
        below = {}
        for name, task in graph["tasks"].items():
            component = root["components"][task["componentRef"]["name"]]
            inner = component.get("dag")
            below[name] = [step for steps in steps_in(inner).values() for step in steps] if inner else [name]
        for name, task in graph["tasks"].items():
            earlier = {step for other in task.get("dependentTasks", []) for step in below[other]}
            for step in below[name]:
                before.setdefault(step, set()).update(earlier)
        return below

    steps_in(root["root"]["dag"])
    for step in TopologicalSorter(before).static_order():  # adds indirect predecessors
        before[step] = before[step].union(*(before[other] for other in before[step]))
    return before


def most_at_once(path: Path) -> Use:
    """Return each resource's largest sum over steps that may run at the same time."""
    use, before = uses(path), predecessors(path)
    assert set(use) == set(before), "every step must have its predecessors listed"
    most: Use = {}

    def widen(chosen: list[str], rest: list[str]) -> None:
        for key in {key for step in chosen for key in use[step]}:
            most[key] = max(most.get(key, Decimal(0)), sum(use[step].get(key, Decimal(0)) for step in chosen))
        for position, step in enumerate(rest):
            beside = [one for one in rest[position + 1 :] if one not in before[step] and step not in before[one]]
            widen([*chosen, step], beside)

    widen([], sorted(use))
    return most


def quota() -> Use:
    hard = yaml.safe_load((PLATFORM / "quota.yaml").read_text())["spec"]["hard"]
    return {key: parse_quantity(text) for key, text in hard.items()}


def a_night() -> Use:
    use = {path.stem: most_at_once(path) for path in COMPILED}
    monitoring = use.pop("mtorl-monitor")
    keys = {key for one in use.values() for key in one}
    return {key: max(one.get(key, Decimal(0)) for one in use.values()) + monitoring.get(key, 0) for key in keys}


def test_argos_containers_get_the_resources_that_a_quota_requires() -> None:
    assert set(default_of_a_container()) == set(NEEDED)


def test_a_night_fits_the_quota_and_the_quota_is_no_larger_than_needed() -> None:
    needed, allowed = a_night(), quota()
    assert set(allowed) == set(needed)
    assert all(needed[key] <= allowed[key] <= Decimal("1.25") * needed[key] for key in needed)

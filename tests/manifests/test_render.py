"""Tests of rules for every overlay and every combination of components."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.manifests.conftest import (
    CRDS,
    FOLDERS,
    LABELS,
    MANIFESTS,
    VALIDATOR,
    Objects,
    assert_restricted,
    containers,
    render,
    rendered,
    title,
)
from tests.repository import ROOT

VERSION = "app.kubernetes.io/version"


def test_all_overlays_and_combinations_are_rendered() -> None:
    assert {"overlays/dev", "overlays/production"} < set(FOLDERS)
    components = {path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml")}
    places = (*(MANIFESTS / folder for folder in FOLDERS), *(MANIFESTS / "examples").glob("two-teams/*"))
    texts = [(folder / "kustomization.yaml").read_text() for folder in places]
    used = {Path(line).name for text in texts for line in re.findall(r"components/[\w-]+", text)}
    assert components <= used, "a component is not rendered by any test"


def test_objects_are_named_labelled_and_in_one_namespace(objects: Objects) -> None:
    """Selectors and volumeClaimTemplates are immutable, so a version in them would prevent upgrades."""
    names = [title(o) for o in objects]
    assert len(names) == len(set(names))
    assert {o["metadata"].get("namespace") for o in objects} in ({"mtorl"}, {"mtorl-dev"})
    for o in objects:
        spec = o.get("spec") or {}
        job = spec.get("jobTemplate", {}).get("spec", spec)
        templates = [job["template"]] if o["kind"] in ("StatefulSet", "Deployment", "CronJob") else []
        for labelled in (o, *templates):
            assert set(labelled["metadata"].get("labels", {})) >= LABELS, title(o)
        claims = [claim["metadata"].get("labels", {}) for claim in spec.get("volumeClaimTemplates", [])]
        assert VERSION not in yaml.safe_dump([_selectors(o), claims]), title(o)


def _selectors(node: object) -> list[object]:
    if isinstance(node, dict):
        own = [value for key, value in node.items() if "elector" in key]
        return own + [found for value in node.values() for found in _selectors(value)]
    return [found for value in node for found in _selectors(value)] if isinstance(node, list) else []


def test_objects_with_data_are_not_deleted_with_the_application(objects: Objects) -> None:
    """If an overlay contained the namespace, `kubectl delete -k` would delete the ledger, the log and the models."""
    assert not objects.of_kind("Namespace", "PersistentVolumeClaim", "Secret")
    for o in objects.of_kind("StatefulSet"):
        assert "persistentVolumeClaimRetentionPolicy" not in o["spec"], "the default keeps the claims"
        assert o["spec"]["podManagementPolicy"] == "Parallel", "otherwise a wrong first image is never replaced"


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_the_foundation_of_an_overlay(overlay: str) -> None:
    made = rendered(f"foundation/{overlay}")
    (used,) = {o["metadata"]["namespace"] for o in rendered(f"overlays/{overlay}")}
    namespace = made.named("Namespace", used)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert made.named("PersistentVolumeClaim", "mtorl-data")["metadata"]["namespace"] == used
    assert made.named("CustomResourceDefinition", "experiments.mtorl-kubeflow.github.io")
    assert not rendered("foundation/profile").of_kind("Namespace"), "the profile's namespace is Kubeflow's"


def test_pods_name_a_claim_once_and_agree_whose_the_data_volume_is(objects: Objects) -> None:
    """A pod that lists the same claim twice never starts."""
    for name, pod in objects.pods():
        sources = [v["persistentVolumeClaim"] for v in pod.get("volumes", []) if "persistentVolumeClaim" in v]
        claims = [source["claimName"] for source in sources]
        assert len(claims) == len(set(claims)), name
        if "mtorl-data" in claims:
            assert pod["securityContext"]["fsGroup"] == 10001, name
            assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", name


def test_pods_keep_to_the_restricted_profile_and_run_our_pinned_images(objects: Objects) -> None:
    pods = objects.pods()
    assert len(pods) >= 6
    for name, pod in pods:
        assert_restricted(pod, name)
        for container in containers(pod):
            where = f"{name}, container {container['name']}"
            for what in ("requests", "limits"):
                assert set(container["resources"][what]) >= {"cpu", "memory"}, where
            image = re.fullmatch(r"ghcr\.io/mtorl-kubeflow/(\w+)(:\d+\.\d+\.\d+\S*|@sha256:\w{64})", container["image"])
            assert image, f"{where}: {container['image']}"
            assert (MANIFESTS / "images" / image[1] / "Dockerfile").exists(), f"{where}: no Dockerfile for {image[1]}"


def test_pods_are_probed_and_do_not_talk_to_the_api_server(objects: Objects) -> None:
    talks = {"ScheduledSparkApplication/mtorl-features/driver", "Deployment/mtorl-operator"}
    accounts = {o["metadata"]["name"]: o for o in objects.of_kind("ServiceAccount")}
    for name, pod in objects.pods():
        assert pod["automountServiceAccountToken"] is (name in talks), name
        assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False, name
        if not name.startswith(("CronJob/", "ScheduledSparkApplication/")):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(containers(pod)[0]), name
        # /ping reports a healthy server before the model is loaded.
        if name.startswith("InferenceService/"):
            assert containers(pod)[0]["readinessProbe"]["httpGet"]["path"].startswith("/predictions/")


def test_the_scripts_validator_finds_no_problem() -> None:
    if not (VALIDATOR.exists() and CRDS.exists()):
        pytest.skip(f"no validator: {VALIDATOR} and its CRDs are not there (set VALIDATOR and CRDS)")
    if find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed")
    render(FOLDERS[0])  # skips if there is no kubectl
    environment = {**os.environ, "PYTHON": sys.executable, "VALIDATOR": str(VALIDATOR), "CRDS": str(CRDS)}
    done = subprocess.run(
        [str(ROOT / "scripts" / "validate-manifests.sh")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    further = [MANIFESTS / "katib", *(MANIFESTS / "foundation").glob("*/")]
    further += [path for depth in ("*", "*/*") for path in MANIFESTS.glob(f"examples/{depth}/kustomization.yaml")]
    assert done.stdout.count(", 0 problems") == len(FOLDERS) + len(further), done.stdout
    assert "not checked" not in done.stdout

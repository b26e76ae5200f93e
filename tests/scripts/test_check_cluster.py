"""Tests of scripts/check-cluster.sh with a fake kubectl."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.repository import ROOT

VERSION = """{
  "clientVersion": {"minor": "99"},
  "serverVersion": {
    "major": "1",
    "minor": "%s"
  }
}"""
KSERVE = "inferenceservices.serving.kserve.io"
EXPERIMENT = "experiments.mtorl-kubeflow.github.io"
PROMETHEUS = ("prometheusrules.monitoring.coreos.com", "alertmanagerconfigs.monitoring.coreos.com")
# A fake kubectl that reads crds, version and secrets from $CLUSTER. Other objects exist.
KUBECTL = """#!/bin/bash
case "$*" in
  "version -o json") cat "$CLUSTER/version"; [ -s "$CLUSTER/version" ] ;;
  "api-resources -o name") cat "$CLUSTER/crds" ;;
  *"get secret "*) grep -qx "$5" "$CLUSTER/secrets" && echo eHg= ;;
  "get storageclass "*) echo '{"storageclass.kubernetes.io/is-default-class":"true"}' ;;
  "get namespaces "*) [ ! -e "$CLUSTER/one-namespace" ] ;;
  "get namespace -l "*) echo namespace/given ;;
  *) true ;;
esac
"""


def check(
    folder: Path,
    crds: tuple[str, ...] = (KSERVE, EXPERIMENT, *PROMETHEUS),
    secrets: tuple[str, ...] = ("mtorl-redis", "mtorl-router", "mtorl-alerting"),
    minor: str = "34",
) -> tuple[int, dict[str, tuple[str, str]]]:
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    for name, lines in (("crds", crds), ("secrets", secrets), ("version", (VERSION % minor,) if minor else ())):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "CLUSTER": str(folder)}
    script = ROOT / "scripts" / "check-cluster.sh"
    done = subprocess.run([script, "ads"], capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line[:8].strip() in ("ok", "missing", "absent", "unknown")]
    return done.returncode, {line[9:37].strip(): (line[:8].strip(), line[38:]) for line in lines}


def test_a_cluster_with_all_that_is_needed(tmp_path: Path) -> None:
    status, lines = check(tmp_path)
    assert status == 0 and "missing" not in {word for word, _ in lines.values()}
    assert lines["Kubernetes"] == ("ok", "1.34"), "report the server's version, not the client's"


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ({"crds": (EXPERIMENT,)}, "KServe"),
        ({"crds": (KSERVE,)}, "resource Experiment"),
        ({"secrets": ("mtorl-redis",)}, "Secret mtorl-router"),
        ({"minor": "29"}, "Kubernetes"),
    ],
)
def test_a_missing_requirement_fails(lacking: dict[str, tuple[str, ...]], line: str, tmp_path: Path) -> None:
    status, lines = check(tmp_path, **lacking)  # type: ignore[arg-type]
    assert status == 1 and lines[line][0] == "missing"


def test_missing_options_name_an_existing_component(tmp_path: Path) -> None:
    status, lines = check(tmp_path, crds=(KSERVE, EXPERIMENT))
    assert status == 0 and lines["Prometheus Operator"][0] == "absent"
    (component,) = [word for word in lines["Prometheus Operator"][1].split() if word.startswith("components/")]
    assert (ROOT / "manifests" / component / "kustomization.yaml").exists()


def test_a_user_who_may_not_list_namespaces_sees_their_labels_as_unknown(tmp_path: Path) -> None:
    assert check(tmp_path)[1]["gateway"][0] == "ok"
    (tmp_path / "one-namespace").touch()
    status, lines = check(tmp_path)
    assert status == 0 and "gateway" not in lines and lines["gateway and monitoring"][0] == "unknown"


def test_without_a_cluster_nothing_is_checked(tmp_path: Path) -> None:
    assert check(tmp_path, minor="") == (2, {})

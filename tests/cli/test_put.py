"""A file of this machine on a cluster's data volume; kubectl plays the cluster, and the pod is a process here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.cluster import volume_receiver
from tests.manifests.conftest import MANIFESTS, documents

# Notes what it is called with, and runs what is run in the pod, with the volume in another place.
KUBECTL = """#!{python}
import json, subprocess, sys
folder, volume = {folder!r}, {volume!r}
words = sys.argv[1:]
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
assert words[:2] == ["--namespace", "team"]
if words[2] == "get":
    if words[3:5] != ["cronjob", "mtorl-bootstrap"]:
        print(json.dumps({{"metadata": {{"name": "mtorl-put-1"}}, "status": json.load(open(folder + "/status"))}}))
    else:
        sys.stdout.write(open(folder + "/job").read())
elif words[2] == "create":
    open(folder + "/pod", "w").write(sys.stdin.read())
    print("pod/mtorl-put-1")
elif words[2] == "wait":
    sys.exit("timed out" if json.load(open(folder + "/status")) else 0)
elif words[2] == "exec":
    command = words[words.index("--") + 1:]
    command = [sys.executable, *(word.replace("/mnt/mtorl", volume) for word in command[1:])]
    sys.exit(subprocess.run(command, stdin=sys.stdin).returncode)
"""


class Cluster:
    """What the played kubectl has: the volume, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.volume = folder, folder / "volume"
        self.volume.mkdir()
        (job,) = documents((MANIFESTS / "base" / "jobs" / "bootstrap.yaml").read_text())
        (folder / "job").write_text(json.dumps(job))
        self.pods_wait_with({})

    def pods_wait_with(self, status: dict[str, Any]) -> None:
        (self.folder / "status").write_text(json.dumps(status))

    def put(self, *words: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["put", *map(str, words), "-n", "team"])
        return done.exit_code, done.output

    @property
    def calls(self) -> list[str]:
        """The verbs of kubectl, in order."""
        return [json.loads(line)[2] for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(tmp_path), volume=str(made.volume)))
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(kubectl.parent), prepend=os.pathsep)
    return made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.parquet"
    path.write_bytes(bytes(range(256)) * 10_000)
    return path


def test_a_file_lands_whole_and_the_pod_goes(cluster: Cluster, log: Path) -> None:
    assert cluster.put(log, "logs/today.parquet") == (0, "/mnt/mtorl/logs/today.parquet: written, 2,560,000 bytes\n")
    landed = cluster.volume / "logs" / "today.parquet"
    assert landed.read_bytes() == log.read_bytes() and landed.stat().st_mode & 0o777 == 0o640
    assert list(landed.parent.iterdir()) == [landed]
    assert cluster.calls == ["get", "create", "wait", "exec", "delete"]
    pod = json.loads((cluster.folder / "pod").read_text())
    (container,) = pod["spec"]["containers"]
    assert container["command"][0] == "sleep" and pod["spec"]["activeDeadlineSeconds"] == 3600
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]


def test_another_content_stays_unless_it_is_to_be_replaced(cluster: Cluster, log: Path) -> None:
    there = cluster.volume / "log.parquet"
    there.write_text("an older log")
    assert cluster.put(log) == (4, "mtorl: /mnt/mtorl/log.parquet has another content: --replace replaces it\n")
    assert there.read_text() == "an older log" and cluster.calls[-1] == "delete"
    assert cluster.put(log, "--replace")[0] == 0 and there.read_bytes() == log.read_bytes()
    before = there.stat().st_mtime_ns
    assert cluster.put(log)[1].endswith("was there, 2,560,000 bytes\n") and there.stat().st_mtime_ns == before


def test_a_description_is_checked_before_a_cluster_is_asked(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "dataset.yaml"
    path.write_text("name: shop\nchanels: [a, b]\n")
    code, said = cluster.put(path)
    assert code == 2 and "chanels" in said
    assert not (cluster.folder / "calls").exists()


@pytest.mark.parametrize("name", ["../etc/passwd", "/mnt/mtorl/x", "."])
def test_a_path_beside_the_volume_is_refused(name: str, cluster: Cluster, log: Path) -> None:
    code, said = cluster.put(log, name)
    assert code == 1 and "not a path on the volume" in said


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an older log")
    words = [sys.executable, volume_receiver.__file__, str(tmp_path / "log"), "0" * 64, "replace"]
    done = subprocess.run(words, input=b"half", capture_output=True)
    assert done.returncode == 1 and b"the connection broke" in done.stderr
    assert (tmp_path / "log").read_text() == "an older log" and len(list(tmp_path.iterdir())) == 1


def test_a_pod_that_does_not_start_says_why_and_goes(cluster: Cluster, log: Path) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "1 Insufficient cpu"}
    cluster.pods_wait_with({"conditions": [condition]})
    code, said = cluster.put(log)
    assert code == 1 and "no node for it: 1 Insufficient cpu" in said and cluster.calls[-1] == "delete"


def test_a_namespace_without_the_product(cluster: Cluster, log: Path) -> None:
    kubectl = cluster.folder / "bin" / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'Error from server (NotFound): no mtorl-bootstrap' >&2\nexit 1\n")
    code, said = cluster.put(log)
    assert code == 1 and "NotFound" in said and "install the product there first" in said

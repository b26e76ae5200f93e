"""Puts a file of this machine on the data volume of a cluster, through a short-lived pod.

The pod is that of the CronJob `mtorl-bootstrap` (image, user, mounts), so the namespace admits it. kubectl carries the
content by `exec`, which no NetworkPolicy concerns.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from components.trainer.train_job import problem_of
from mtorl.runtime.files import sha256_of
from pipelines.cluster.volume_receiver import KEPT

MOUNT = PurePosixPath("/mnt/mtorl")
_JOB = "mtorl-bootstrap"
_START_SECONDS, _SECONDS = 180, 3600  # for the pod to start, and to live
_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}
_RECEIVE = Path(__file__).with_name("volume_receiver.py")


class PutError(Exception):
    """The file can't be put there."""


class Kept(PutError):
    """Another content is there."""


def put(file: Path, name: str, namespace: str, replace: bool) -> str:
    """Put a file on the volume; returns where it is and what happened.

    Args:
        name: Its path on the volume, such as "dataset.yaml".
        replace: Whether it may replace another content.

    Raises:
        PutError: The cluster refuses, or the path leaves the volume.
        Kept: Another content is there, and `replace` is False.
    """
    target = MOUNT / name
    if PurePosixPath(name).is_absolute() or ".." in target.parts or target == MOUNT:
        raise PutError(f"{name}: not a path on the volume, such as dataset.yaml")
    digest = sha256_of(file)
    job = json.loads(_kubectl(namespace, "get", "cronjob", _JOB, "--output=json"))
    made = json.dumps(pod_of(job))
    pod = _kubectl(namespace, "create", "--filename=-", "--output=name", stdin=made).strip()
    try:
        _wait(namespace, pod)
        words = ("python", "-c", _RECEIVE.read_text(), str(target), digest, "replace" if replace else "keep")
        with file.open("rb") as content:
            done = _run(namespace, "exec", "--stdin", pod, "--", *words, stdin=content)
    finally:
        _run(namespace, "delete", pod, "--wait=false", "--ignore-not-found", "--grace-period=1")
    if done.returncode == KEPT:
        raise Kept(f"{target} has another content: --replace replaces it")
    if done.returncode:
        raise PutError(f"{target}: {done.stderr.strip()}")
    return f"{target}: {done.stdout.strip()}, {file.stat().st_size:,} bytes"


def pod_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """A pod that waits on the volume, from the CronJob whose pods mount it."""
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    volumes = [one for one in template["spec"]["volumes"] if "configMap" not in one]
    names = {volume["name"] for volume in volumes}
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] in names]
    changes = {"command": ["sleep", str(_SECONDS)], "args": [], "resources": _RESOURCES, "volumeMounts": mounts}
    spec = {
        **template["spec"],
        "activeDeadlineSeconds": _SECONDS,
        "containers": [container | changes],
        "volumes": volumes,
    }
    metadata = {"generateName": "mtorl-put-", "labels": template.get("metadata", {}).get("labels", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _wait(namespace: str, pod: str) -> None:
    done = _run(namespace, "wait", pod, "--for=condition=Ready", f"--timeout={_START_SECONDS}s")
    if done.returncode:
        found = json.loads(_kubectl(namespace, "get", pod, "--output=json"))
        raise PutError(f"{pod} does not start: {problem_of(found) or done.stderr.strip()}")


def _kubectl(namespace: str, *words: str, stdin: str = "") -> str:
    done = _run(namespace, *words, stdin=stdin)
    if done.returncode:
        hint = f"; install the product there first, or name another namespace: -n ({_JOB} is its job)"
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]  # what comes before is its own log
        raise PutError(f"kubectl: {said}{hint if 'NotFound' in said else ''}")
    return done.stdout


def _run(namespace: str, *words: str, stdin: str | BinaryIO = "") -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
    try:
        return subprocess.run(["kubectl", "--namespace", namespace, *words], capture_output=True, text=True, **given)
    except FileNotFoundError:
        raise PutError("kubectl is not installed: it is what talks to the cluster") from None

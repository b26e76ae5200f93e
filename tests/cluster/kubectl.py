"""Calls kubectl, returns its answers as Python objects, and waits for states of the cluster."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Object = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None, allowed: tuple[int, ...] = (0,)) -> str:
    """Return kubectl's standard output; an exit code that is not `allowed` raises an AssertionError."""
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode in allowed, f"kubectl {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr}"
    return done.stdout


def get(namespace: str, kind: str, name: str) -> Object:
    found: Object = json.loads(kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


def listed(namespace: str, kind: str, selector: str = "") -> list[Object]:
    found: Object = json.loads(kubectl("-n", namespace, "get", kind, "-l", selector, "-o", "json"))
    items: list[Object] = found["items"]
    return items


def refusal(namespace: str, pod: Object) -> str:
    """Return the API server's reason for refusing a pod with this spec; the empty string if it would admit it."""
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": pod}
    command = ["kubectl", "-n", namespace, "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


def wait_until(what: str, seen: Callable[[], T | None], seconds: float = 60, state: Callable[[], str] = str) -> T:
    """Poll `seen` until it returns something true; on a timeout, the error has `what` and the `state`."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s\n{state()}"
        time.sleep(0.5)
    return found


def serves(api: str) -> bool:
    """Return whether the cluster has an API group, "GROUP/VERSION"."""
    return subprocess.run(["kubectl", "get", "--raw", f"/apis/{api}"], capture_output=True).returncode == 0

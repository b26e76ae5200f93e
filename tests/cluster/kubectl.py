"""kubectl as the tests call it: its answer as Python, and waiting for what a cluster does in its own time."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Object = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None, allowed: tuple[int, ...] = (0,)) -> str:
    """What kubectl prints, without warnings and errors; exit codes but the `allowed` ones are an AssertionError."""
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
    """Why the API server would not admit a pod with this spec; empty if it would."""
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": pod}
    command = ["kubectl", "-n", namespace, "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


def wait_until(what: str, seen: Callable[[], T | None], seconds: float = 60, state: Callable[[], str] = str) -> T:
    """What `seen` returns once it is true; if it does not come, the message says `what` and the `state` instead."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s\n{state()}"
        time.sleep(0.5)
    return found


def serves(api: str) -> bool:
    """Whether the cluster has an API group, "GROUP/VERSION"."""
    return subprocess.run(["kubectl", "get", "--raw", f"/apis/{api}"], capture_output=True).returncode == 0

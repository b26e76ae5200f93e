import json
import subprocess
from typing import Any

Object = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None, allowed: tuple[int, ...] = (0,)) -> str:
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
    """Return the API server's error for this pod, or the empty string if it accepts the pod."""
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": pod}
    command = ["kubectl", "-n", namespace, "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


def serves(api: str) -> bool:
    return subprocess.run(["kubectl", "get", "--raw", f"/apis/{api}"], capture_output=True).returncode == 0

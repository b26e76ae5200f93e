"""How soon a change is in force on a cluster, left to the kubelet and with the command that hurries it.

    kubectl -n mtorl-dev get pod mtorl-router-0                  # an installation, its router ready: docs/cluster.md
    python benchmarks/cluster.py --namespace mtorl-dev           # ten changes of each kind, half an hour
    python benchmarks/cluster.py --namespace mtorl-dev --quick   # one of each

It changes the owner in the experiment file, which decides nothing, and adds a token to the Secret of callers and takes
it away again. What counts is the time from `kubectl` until the router's metrics show the first, and until a request
with the token that was taken away is refused. Everything is put back.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

from _environment import environment, finish

ROUTER = "mtorl-router-0"
PATIENCE = 300.0  # seconds; a change that takes longer is a fault
ASK = """
import sys, urllib.error, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080/v1/models/ads:predict", data=b"{}",
                                 headers={"Authorization": f"Bearer {sys.argv[1]}"})
try:
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


class Installation:
    """What is installed in a namespace.

    Args:
        namespace: Its name.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace; returns what it printed."""
        command = ["kubectl", "--namespace", self._namespace, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output", "json"))
        return found

    def replace(self, thing: dict[str, Any]) -> None:
        """Write an object over the one in the cluster, whatever changed meanwhile."""
        thing["metadata"].pop("resourceVersion", None)
        self.kubectl("replace", "-f", "-", stdin=json.dumps(thing))

    def hurry(self) -> None:
        """Have the kubelet look at the router's files now."""
        annotation = f"mtorl/refresh={time.time()}"
        self.kubectl("annotate", "pod", "-l", "app.kubernetes.io/name=mtorl-router", annotation, "--overwrite")

    def generation(self) -> int:
        """How often the router has loaded the experiment file."""
        place = f"/api/v1/namespaces/{self._namespace}/pods/{ROUTER}:8080/proxy/metrics"
        lines = self.kubectl("get", "--raw", place).splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith("mtorl_experiment_generation ")]
        return int(float(value))

    def status_with(self, token: str) -> int:
        """The HTTP status of a request with a token; 401 if the router does not know it."""
        return int(self.kubectl("exec", ROUTER, "-c", "router", "--", "python", "-c", ASK, token))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", default="mtorl-dev")
    parser.add_argument("--changes", type=int, default=10, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="one change of each kind")
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    installation, changes = Installation(arguments.namespace), 1 if arguments.quick else arguments.changes
    figures: dict[str, Any] = {"changes": changes, "seconds": {}}
    for what, change in (("experiment", experiment_delay), ("token taken away", token_delay)):
        for how, hurried in (("by itself", False), ("hurried", True)):
            seconds = []
            for number in range(changes):
                seconds.append(change(installation, hurried))
                print(f"{what}, {how}, {number + 1} of {changes}: {seconds[-1]:.1f} s", flush=True)
                time.sleep(0 if arguments.quick else 7.3)  # another moment of the kubelet's minute
            figures["seconds"][f"{what}, {how}"] = sorted(seconds)
    print(f"\n{'seconds':32s} {'least':>7s} {'median':>7s} {'most':>7s}")
    for name, seconds in figures["seconds"].items():
        print(f"{name:32s} {seconds[0]:7.1f} {statistics.median(seconds):7.1f} {seconds[-1]:7.1f}")
    version = json.loads(installation.kubectl("version", "--output", "json"))["serverVersion"]["gitVersion"]
    figures["environment"] = {**environment("kserve"), "kubernetes": version}
    finish(figures, arguments.json)


def experiment_delay(installation: Installation, hurried: bool) -> float:
    """Seconds until a change of the experiment file is in force."""
    before = installation.get("configmap", "mtorl-experiment")
    changed = json.loads(json.dumps(before))
    owner = f"owner: benchmark-{uuid.uuid4().hex[:6]}"
    lines = before["data"]["experiment.yaml"].splitlines()
    changed["data"]["experiment.yaml"] = "\n".join(owner if line.startswith("owner:") else line for line in lines)
    generation = installation.generation()

    def put(content: dict[str, Any], wanted: int) -> float:
        return elapsed(installation, content, hurried, lambda: installation.generation() >= wanted)

    try:
        return put(changed, generation + 1)
    finally:
        hurried = True
        put(before, generation + 2)


def token_delay(installation: Installation, hurried: bool) -> float:
    """Seconds until a token that was taken away is refused."""
    before = installation.get("secret", "mtorl-router")
    added, token = json.loads(json.dumps(before)), uuid.uuid4().hex
    tokens = base64.b64decode(before["data"]["tokens"]).decode().strip()
    added["data"]["tokens"] = base64.b64encode(f"{tokens}\n{token}".encode()).decode()
    elapsed(installation, added, True, lambda: installation.status_with(token) != 401)
    return elapsed(installation, before, hurried, lambda: installation.status_with(token) == 401)


def elapsed(installation: Installation, content: dict[str, Any], hurried: bool, done: Callable[[], bool]) -> float:
    """Put an object in place and measure until it shows."""
    installation.replace(content)
    started = time.monotonic()
    if hurried:
        installation.hurry()
    while not done():
        if time.monotonic() - started > PATIENCE:
            raise TimeoutError(f"{content['kind']} {content['metadata']['name']}: not in force after {PATIENCE:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - started


if __name__ == "__main__":
    main()

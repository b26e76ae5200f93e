"""Time until the kill switch of an `Experiment` object is in force on two routers, also if the operator dies with it.

    kubectl apply -k manifests/crds                                        # on the cluster of $KUBECONFIG
    python benchmarks/operator_switch.py --run runs/latest                 # of a finished `mtorl run`: fifteen minutes
    python benchmarks/operator_switch.py --run runs/latest --quick         # thrown twice

Two operators and two routers run as processes of this machine, against the API server of $KUBECONFIG, in a namespace of
their own that is removed afterwards. Both routers are asked all the time. Measured is the time from the start of
`kubectl patch` to the last answer of the challenger of that experiment on either of them; 5 s are promised, and 6 s if
the operator that leads dies: it gets SIGKILL between 0 and .9 s after the start of the patch. The last case has
49 more experiments at 50 %, in parts of the other half of the layer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from os import environ
from pathlib import Path
from typing import Any

import yaml
from _environment import ROOT, environment, finish

from benchmarks._markdown import measured_on, table
from benchmarks.kill_switch import PROMISED_SECONDS, WATCHED_SECONDS, ask

USERS = [f"u{i:06d}" for i in range(20)]
OTHERS = 49
ALONE, LEADERLESS, MANY = "1", "1, and the leading operator is killed", str(OTHERS + 1)
PROMISED_WITHOUT_LEADER = 6.0


class Cluster:
    """What is done with kubectl, in a namespace.

    Args:
        namespace: Its name.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl there; returns what it printed."""
        command = ["kubectl", "--namespace", self.namespace, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def create(self, name: str, spec: dict[str, Any]) -> None:
        """Make an experiment."""
        made = {"apiVersion": "mtorl-kubeflow.github.io/v1alpha1", "kind": "Experiment", "metadata": {"name": name}}
        self.kubectl("create", "--filename", "-", stdin=json.dumps({**made, "spec": spec}))

    def started(self) -> int:
        """How many experiments every router serves at their stage."""
        found = json.loads(self.kubectl("get", "exp", "--output", "json"))["items"]
        said = [one for each in found for one in each.get("status", {}).get("conditions", ())]
        return sum(one["type"] == "InForce" and one["status"] == "True" for one in said)

    def patch(self, **fields: Any) -> None:
        """Change the experiment's spec."""
        self.kubectl("patch", "exp", "switch", "--type", "merge", "--patch", json.dumps({"spec": fields}))


class Operators:
    """Two operators, behind one address as behind the name of a Service: the older of those that live is asked.

    Args:
        cluster: Whose experiments.
        dataset: The data set's description.
        log: Folder of the decision log.
    """

    def __init__(self, cluster: Cluster, dataset: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "cli.main", "experiment", "operator", "--namespace", cluster.namespace]
        self._command += ["--dataset", str(dataset), "--log", str(log), "--port"]
        self._living: list[tuple[subprocess.Popen[bytes], int]] = []
        self._listens = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listens.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def start(self) -> None:
        """Start those that lack, and wait until one leads and the other follows."""
        from serving.local.ports import free_ports

        while len(self._living) < 2:
            (port,) = free_ports(1)
            command = [*self._command, str(port)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._living.append((process, port))
            leads = len(self._living) == 1
            wait_for(lambda port=port, leads=leads: self._leads(port) or not leads)
        wait_for(lambda: self._leads(self._living[0][1]))

    def kill_leader(self) -> None:
        """End it without a word."""
        process, _ = self._living[0]
        process.kill()
        process.wait()
        self._living.pop(0)

    def stop(self) -> None:
        """End all."""
        for process, _ in self._living:
            process.terminate()
            process.wait(30)

    def _leads(self, port: int) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
            return bool(json.loads(answer.read())["leads"])

    def _accept(self) -> None:
        while True:
            asked, _ = self._listens.accept()
            for _, port in tuple(self._living):
                with contextlib.suppress(OSError):
                    answers = socket.create_connection(("127.0.0.1", port), timeout=2)
                    for source, target in ((asked, answers), (answers, asked)):
                        threading.Thread(target=copy, args=(source, target), daemon=True).start()
                    break
            else:
                asked.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy all that comes, and its end."""
    with contextlib.suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def wait_for(seen: Any, seconds: float = 120.0) -> None:
    """Wait until something is so; what can't be asked yet is not so.

    Raises:
        RuntimeError: It is not so in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if seen():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("it did not come up")


def seconds_to_stop(cluster: Cluster, urls: list[str], meanwhile: Callable[[], None] = lambda: None) -> float:
    """Throw the switch; seconds until the challenger's last answer on any router. It is turned back afterwards.

    Args:
        cluster: Where the experiment is.
        urls: Of the routers.
        meanwhile: What happens as the switch is thrown.
    """
    started, last = time.monotonic(), [0.0] * len(urls)

    def watch(number: int) -> None:
        asked = 0
        while time.monotonic() - started < WATCHED_SECONDS:
            sent = time.monotonic() - started
            if any(map(is_switched_on, ask(urls[number], USERS, f"{started}-{number}-{asked}"))):
                last[number] = sent
            asked += 1

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(len(urls))]
    threads.append(threading.Thread(target=meanwhile))
    for thread in threads:
        thread.start()
    cluster.patch(enabled=False)
    for thread in threads:
        thread.join()
    cluster.patch(enabled=True)
    wait_for(lambda: all(serves_challenger(url) for url in urls))
    return max(last)


def serves_challenger(url: str) -> bool:
    """Whether a router gives anybody the challenger."""
    return any(map(is_switched_on, ask(url, USERS, str(time.monotonic()))))


def is_switched_on(answer: dict[str, Any]) -> bool:
    """Whether it is of the challenger of the experiment that is switched off and on."""
    return (answer["experiment"], answer["arm"]) == ("switch", "challenger")


def operator_switch_table(figures: dict[str, Any]) -> str:
    """How soon the switch is in force."""
    rows, times = [], 0
    for case, found in figures["seconds"].items():
        seconds, times = sorted(found), len(found)
        three = (seconds[0], seconds[len(seconds) // 2], seconds[-1], figures["promised_seconds"][case])
        rows.append([case, *(f"{one:.1f} s" for one in three)])
    return (
        f"Two routers, two operators and an API server on one machine; thrown {times} times each.\n\n"
        + table(["experiments", "least", "median", "most", "promised"], rows)
        + measured_on(figures, "operator_switch.py")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run on the simulator")
    parser.add_argument("--quick", action="store_true", help="thrown twice instead of ten times")
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()

    from benchmarks.request_path.servers import router

    cluster = Cluster(f"mtorl-switch-{uuid.uuid4().hex[:8]}")
    cluster.kubectl("create", "namespace", cluster.namespace)
    with ExitStack() as running:
        running.callback(cluster.kubectl, "delete", "namespace", cluster.namespace, "--wait=false")
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "log").mkdir()
        settings = yaml.safe_load((arguments.run / "serving" / "router.yaml").read_text())
        operators = Operators(cluster, Path(settings["dataset"]), scratch / "log")
        running.callback(operators.stop)
        operators.start()
        environ["MTORL_OPERATOR"] = operators.url
        run = arguments.run.resolve()
        urls = [running.enter_context(router(run, scratch / name, False)).url for name in ("one", "other")]
        spec = yaml.safe_load((scratch / "one" / "run" / "serving" / "experiment.yaml").read_text())
        spec = {name: value for name, value in spec.items() if name not in ("name", "ramp")}
        spec["move"] = {"to": "50%", "reason": "to be measured"}
        times, seconds = 2 if arguments.quick else 10, {}
        cluster.create("switch", {**spec, "layer_part": [0.0, 0.5]})
        wait_for(lambda: all(serves_challenger(url) for url in urls))
        seconds[ALONE] = [seconds_to_stop(cluster, urls) for _ in range(times)]
        seconds[LEADERLESS] = []
        for number in range(times):

            def die(number: int = number) -> None:
                time.sleep(number / 10)
                operators.kill_leader()

            seconds[LEADERLESS].append(seconds_to_stop(cluster, urls, die))
            operators.start()
        for number in range(OTHERS):
            part = [0.5 + number / OTHERS / 2, 0.5 + (number + 1) / OTHERS / 2]
            cluster.create(f"other-{number}", {**spec, "layer_part": part})
        wait_for(lambda: cluster.started() == OTHERS + 1, 300)
        seconds[MANY] = [seconds_to_stop(cluster, urls) for _ in range(times)]
    promised = {ALONE: PROMISED_SECONDS, LEADERLESS: PROMISED_WITHOUT_LEADER, MANY: PROMISED_SECONDS}
    figures = {"promised_seconds": promised, "seconds": seconds, "environment": environment("kopf", "kserve")}
    print(operator_switch_table(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()

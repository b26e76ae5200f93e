"""Test that the operator follows Experiment objects, and releases its lease at the end."""

import json
import subprocess
import sys
from pathlib import Path

from tests.features.collect.decision_logs import SPEC
from tests.repository import ROOT

PROCESS = """
import json, os, signal, sys, threading, time
from pathlib import Path
from pipelines.experiments.operator import start
from tests.mtorl.experiment.experiments import FILE
from tests.pipelines.experiments.fake_cluster import FakeCluster

cluster, name = FakeCluster(), FILE["name"]

def people():
    for number, enabled in enumerate((True, False), 1):
        cluster.apply(name, {**FILE, "move": {"to": "5%", "reason": "go"}, "enabled": enabled})
        while len(cluster.status(name).get("history", ())) < number:
            time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    FILE.pop("name")
    start.KubernetesApi = lambda *_: cluster
    threading.Thread(target=people, daemon=True).start()
    try:
        start.run(cluster, Path(sys.argv[1]), sys.argv[2], 0, 60.0)
    finally:
        assert "enabled: false" in cluster.config_map["data"][f"{name}.yaml"]
        lease = cluster.kept["leases"]["mtorl-operator"]["spec"]
        print(json.dumps([*(event["kind"] for event in cluster.status(name)["history"]), lease["holderIdentity"]]))
"""


def test_the_process_follows_objects_and_exits_when_stopped(tmp_path: Path) -> None:
    SPEC.save(tmp_path / "dataset.yaml")
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, str(tmp_path / "process.py"), str(tmp_path / "dataset.yaml"), str(tmp_path / "lake")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["move", "kill", None]

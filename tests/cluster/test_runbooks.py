"""Tests that run the commands of all runbooks unchanged on a cluster.

A first test needs no running containers. A second test runs the commands that read from containers, on a real node.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from tests.cluster.conftest import Installation
from tests.cluster.experiment_objects import Cluster
from tests.cluster.kubectl import Object, kubectl, listed
from tests.cluster.running import Running, answers, decided
from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.cluster

OPERATE = ROOT / "docs" / "cluster.md"
EXAMPLE = yaml.safe_load((MANIFESTS / "examples" / "experiment.yaml").read_text())
# Decisions count after 36 seconds, so that `mtorl experiment plan` has users.
METRICS = {**EXAMPLE["spec"]["metrics"], "outcome_hours": 0.01}
SPRING = yaml.safe_dump({**EXAMPLE, "metadata": {"name": "spring"}, "spec": {**EXAMPLE["spec"], "metrics": METRICS}})
ROUTER = "app.kubernetes.io/name=mtorl-router"
# Files that exist only after a run of a pipeline, and after the sink of the log has refused records.
LEFT_BY_FAULTS = """
from datetime import UTC, datetime
from pathlib import Path
from monitoring.pipeline_runs import PipelineRun, RunEnd
for name in ("mtorl-train", "mtorl-retrain", "mtorl-monitor"):
    PipelineRun.ended(name, RunEnd.SUCCEEDED, {}, "", datetime.now(UTC)).write(Path("/mnt/mtorl/runs"))
Path("/var/lib/mtorl/spool/poison-0.jsonl").write_text("{}\\n")
"""
PAGES = [*sorted((ROOT / "docs" / "runbooks").glob("*.md")), OPERATE, OPERATE.with_name("cluster-experiments.md")]

# A function `kubectl` that uses the test's namespace and returns early for the commands in SKIPPED. It records each
# failure, because bash ignores the failure of a command within a pipeline.
PREAMBLE = r"""
kubectl() {
  local words=("$@")
  [[ "$1 $2" != "-n mtorl" ]] || words[1]=$NAMESPACE
  case " $* " in
SKIPPED
    *" delete pod "*) words+=(--wait=false) ;;
  esac
  # Codes above 2 are answers of `mtorl`, such as an alarm of the monitor; 126 and above mean that it did not start.
  command kubectl "${words[@]}" || (( $? > 2 && $? < 126 )) || echo "kubectl $*" >>"$FAULTS"
}
git() { :; }
amtool() { :; }
kfp() { :; }
python() { :; }
openssl() { echo 0123456789abcdef; }
mtorl() { :; }
NS=mtorl EXP=spring PIPELINE=mtorl-train  # a page sets them in its first block, and a shell keeps them
"""
# Commands that need running containers, an expandable volume, a person or another program, and commands that wait.
NEED_CONTAINERS = """
    *" edit "* | *" top "* | *" patch pvc "*) return 0 ;;
    *" exec "* | *" logs "* | *" port-forward "*) return 0 ;;
    *" apply -k "* | *" wait --for=delete "* | *" wait --for=condition=Settled "* | *" rollout status "*) return 0 ;;
"""
# All commands but those that read from containers. PAGE is a placeholder, and `--previous` needs a restarted container.
NEED_NO_CONTAINERS = """
    *" monitoring "* | *" port-forward "* | *" --previous"* | *" PAGE "* | *" mv "*) return 0 ;;
    *" get "* | *" exec "* | *" logs "*) ;;
    *) return 0 ;;
"""


def scripts(page: Path) -> list[str]:
    """Return the bash blocks of a page, and the kubectl commands within its sentences."""
    text = page.read_text()
    if page == OPERATE:
        text = text[text.index("\n## Operate\n") : text.index("\n## Upgrade\n")]  # the fixture did the installation
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r'`(kubectl -n (?:mtorl|"\$NS") [^`]+)`', re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [*blocks, *(line.replace(r"\|", "|") for line in inline if not re.search(r"\bPOD\b", line))]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Install the dev overlay with an experiment, and roll out the router once more so that a runbook can undo it."""
    made = Installation(tmp_path_factory.mktemp("runbooks"))
    made.apply("overlays/dev")
    made.wait_for_pods()
    change = {"spec": {"template": {"metadata": {"annotations": {"changed": "once"}}}}}
    kubectl("-n", made.namespace, "patch", "statefulset", "mtorl-router", "--type=merge", "-p", json.dumps(change))
    kubectl("-n", made.namespace, "apply", "-f", "-", stdin=SPRING)
    for job in ("monitor", "materialize"):
        kubectl("-n", made.namespace, "create", "job", f"{job}-before", "--from", f"cronjob/mtorl-{job}")
        eventually(lambda job=job: listed(made.namespace, "pod", f"job-name={job}-before"))
    yield made
    kubectl("delete", "namespace", made.namespace, "--wait=false")


def test_there_is_something_to_run() -> None:
    assert all(scripts(page) for page in PAGES)


@pytest.fixture(scope="module")
def running(images: list[Object], tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Running:
    """Install the dev overlay on a real node, with an experiment, a run of each job and the state of a pipeline."""
    made = Running(tmp_path_factory.mktemp("running"), images)
    ended += [made.namespace, made.gateway]
    made.install("overlays/dev")
    kubectl("-n", made.namespace, "apply", "-f", "-", stdin=SPRING)
    made.bootstrap()
    kubectl("-n", made.namespace, "wait", "--for=condition=Ready", "pod", "-l", ROUTER, "--timeout=180s")
    people = Cluster(made.namespace)
    people.move("spring", "shadow")
    people.wait_for_phase("shadow", "spring")
    taken = {one["decision_id"] for one in decided(answers(made.calling(60, uuid4().hex, "", "0.01")))}
    made.in_router(LEFT_BY_FAULTS)
    eventually(lambda: taken <= made.uploaded(), 400)
    for job in ("materialize", "monitor", "compact"):
        kubectl("-n", made.namespace, "create", "job", f"{job}-now", "--from", f"cronjob/mtorl-{job}")
        kubectl("-n", made.namespace, "wait", "--for=condition=Complete", f"job/{job}-now", "--timeout=300s")
    return made


def run(page: Path, skipped: str, namespace: str, folder: Path) -> str:
    """Run the scripts of a page; returns the failed commands and all output, or "" if no command failed."""
    faults = folder / "faults"
    environment = {**os.environ, "NAMESPACE": namespace, "FAULTS": str(faults)}
    said = []
    for script in scripts(page):
        command = ["bash", "-c", PREAMBLE.replace("SKIPPED", skipped.strip("\n")) + script]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        said.append(f"{script}\n{done.stdout[-500:]}{done.stderr[-1000:]}")
    return faults.read_text() + "\n".join(said) if faults.exists() else ""


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_commands_of_a_page_can_be_run(page: Path, installed: Installation, tmp_path: Path) -> None:
    assert not (said := run(page, NEED_CONTAINERS, installed.namespace, tmp_path)), said


@pytest.mark.node
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_commands_of_a_page_read_from_running_containers(page: Path, running: Running, tmp_path: Path) -> None:
    assert not (said := run(page, NEED_NO_CONTAINERS, running.namespace, tmp_path)), said

"""Tests that run the commands of all runbooks unchanged on a cluster."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Installation
from tests.cluster.kubectl import kubectl, listed
from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.cluster

OPERATE = ROOT / "docs" / "cluster.md"
PAGES = [*sorted((ROOT / "docs" / "runbooks").glob("*.md")), OPERATE, OPERATE.with_name("cluster-experiments.md")]

# A function `kubectl` that uses the test's namespace. It records each failure, because bash ignores the failure of a
# command within a pipeline. It skips commands that need running containers, an expandable volume, a person or another
# program, and it skips waiting.
PREAMBLE = r"""
kubectl() {
  local words=() word
  for word; do case $word in mtorl) words+=("$NAMESPACE") ;; *) words+=("$word") ;; esac; done
  case " $* " in
    *" edit "* | *" top "* | *" patch pvc "*) return 0 ;;
    *" exec "* | *" logs "* | *" port-forward "*) return 0 ;;
    *" apply -k "* | *" wait --for=delete "* | *" wait --for=condition=Settled "* | *" rollout status "*) return 0 ;;
    *" delete pod "*) words+=(--wait=false) ;;
  esac
  command kubectl "${words[@]}" || echo "kubectl $*" >>"$FAULTS"
}
git() { :; }
amtool() { :; }
python() { :; }
openssl() { echo 0123456789abcdef; }
mtorl() { :; }
NS=mtorl EXP=spring PIPELINE=mtorl-train  # a page sets them in its first block, and a shell keeps them
"""


def scripts(page: Path) -> list[str]:
    """Return the bash blocks of a page, and the kubectl commands within its sentences unless they contain the
    placeholder POD.
    """
    text = page.read_text()
    if page == OPERATE:
        text = text[text.index("\n## Operate\n") : text.index("\n## Upgrade\n")]  # the fixture did the installation
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r'`(kubectl -n (?:mtorl|"\$NS") [^`]+)`', re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [*blocks, *(line.replace(r"\|", "|") for line in inline if not re.search(r"\bPOD\b", line))]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Install the dev overlay with an experiment, and change the router, so that a runbook can undo its rollout."""
    made = Installation(tmp_path_factory.mktemp("runbooks"))
    made.apply("overlays/dev")
    made.wait_for_pods()
    change = {"spec": {"template": {"metadata": {"annotations": {"changed": "once"}}}}}
    kubectl("-n", made.namespace, "patch", "statefulset", "mtorl-router", "--type=merge", "-p", json.dumps(change))
    experiment = (MANIFESTS / "examples" / "experiment.yaml").read_text()
    spring = experiment.replace("name: mtorl-vs-incumbent", "name: spring")
    kubectl("-n", made.namespace, "apply", "-f", "-", stdin=spring)
    for job in ("monitor", "materialize"):
        kubectl("-n", made.namespace, "create", "job", f"{job}-before", "--from", f"cronjob/mtorl-{job}")
        eventually(lambda job=job: listed(made.namespace, "pod", f"job-name={job}-before"))
    yield made
    kubectl("delete", "namespace", made.namespace, "--wait=false")


def test_there_is_something_to_run() -> None:
    assert all(scripts(page) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_commands_of_a_page_can_be_run(page: Path, installed: Installation, tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    environment = {**os.environ, "NAMESPACE": installed.namespace, "FAULTS": str(faults)}
    said = []
    for script in scripts(page):
        command = ["bash", "-c", PREAMBLE + script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        said.append(f"{script}\n{done.stdout[-500:]}{done.stderr[-1000:]}")
    assert not faults.exists(), faults.read_text() + "\n".join(said)

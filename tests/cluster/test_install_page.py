"""docs/cluster.md as it is written: its commands take an empty cluster to a running experiment and its kill switch.

The page's `scripts/images.sh load` builds what is not there, and hands it to the command LOAD.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import simulated
from tests.cluster.kubectl import kubectl, wait_until
from tests.cluster.running import BOOTSTRAP
from tests.examples.walk import Terminal, script_of
from tests.repository import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.node]

NAMESPACE = "mtorl-dev"
OVERLAY = "components: [images]\n"
# What a reader may add to the overlay: a small market, so that the test is over sooner.
SMALLER = f"""{OVERLAY}patches:
- target: {{kind: CronJob, name: mtorl-bootstrap}}
  patch: |
{re.sub("^(?=.)", "    ", BOOTSTRAP.strip(), flags=re.M)}
"""


@pytest.fixture
def empty_cluster() -> Iterator[None]:
    if simulated():
        pytest.skip("the cluster of KUBECONFIG has no node that runs anything")
    if not os.environ.get("LOAD"):
        pytest.skip("set LOAD to the command that hands an image to the cluster (scripts/images.sh)")
    found = kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name")
    assert not found, f"{NAMESPACE} is there: the page begins without it, and this test removes it at its end"
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_the_page_leads_to_a_running_experiment(empty_cluster: None, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    script = script_of(page[page.index("\n## Install\n") : page.index("\n## With Kubeflow Pipelines\n")])
    assert script.count(OVERLAY) == 1
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "runs", "my-overlay")
    shutil.copytree(ROOT, repository, ignore=ignored)  # whole, or the tags of the images would be others
    printed = Terminal(repository, tmp_path / "bin").run(script.replace(OVERLAY, SMALLER), 3600)
    (line,) = [line for line in printed.splitlines() if line.startswith('{"predictions"')]
    answer, _ = json.JSONDecoder().raw_decode(line)  # without an end of line, what comes next is on it, too
    assert answer["predictions"][0]["model"]["name"] == "incumbent", printed
    assert "registry/challenger/first: published" in printed or "rejected" in printed, printed
    assert "mtorl-redis-0" in printed

    def shown() -> list[str]:
        return kubectl("-n", NAMESPACE, "get", "exp", "mtorl-vs-incumbent", "--no-headers").split()[:3]

    wait_until("the kill switch", lambda: shown() == ["mtorl-vs-incumbent", "50%", "false"])

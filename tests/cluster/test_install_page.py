"""Test that the commands of docs/cluster.md lead from an empty cluster to a running experiment."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from serving.local.ports import free_ports
from tests.cluster.conftest import simulated
from tests.cluster.kubectl import get, kubectl
from tests.cluster.running import BOOTSTRAP
from tests.examples.walk import Terminal, script_of
from tests.manifests.alerting_stack import alertmanager, configuration, people, prometheus, scrape
from tests.manifests.alerting_stack import get as read
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

NAMESPACE = "mtorl-dev"
OVERLAY = "components: [images]\n"
# Simulate fewer users than the page, to save time.
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
    assert not found, f"{NAMESPACE} exists: the page starts without it, and this test deletes it"
    monitoring = kubectl("get", "namespace", "monitoring", "--ignore-not-found", "-o", "name")
    # The page assumes this namespace, because the Prometheus Operator runs in it.
    if not monitoring:
        kubectl("create", "namespace", "monitoring")
    yield
    made = [NAMESPACE] if monitoring else [NAMESPACE, "monitoring"]
    kubectl("delete", "namespace", *made, "--wait=false")


@pytest.mark.timeout(3600)  # long enough to build all images
def test_the_page_leads_to_a_running_experiment(empty_cluster: None, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    script = script_of(page[page.index("\n## Install\n") : page.index("\n## With Kubeflow Pipelines\n")])
    assert script.count(OVERLAY) == 1
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "runs", "my-overlay")
    shutil.copytree(ROOT, repository, ignore=ignored)  # complete, because image tags hash the files
    terminal = Terminal(repository, tmp_path / "bin")
    start, _, alert = script.replace(OVERLAY, SMALLER).partition("# 21 ")
    printed = terminal.run(start, 3600)
    (line,) = [line for line in printed.splitlines() if line.startswith('{"predictions"')]
    # The next command's output may follow on the same line.
    answer, _ = json.JSONDecoder().raw_decode(line)
    first = answer["predictions"][0]
    # On a busy node, the page lets the reader repeat the request.
    busy = first["fallback_reason"] in ("ledger", "log")
    assert busy or (first["model"] and first["model"]["name"] == "incumbent"), first
    assert "registry/challenger/first: published" in printed or "rejected" in printed, printed

    def shown() -> list[str]:
        return kubectl("-n", NAMESPACE, "get", "exp", "mtorl-vs-incumbent", "--no-headers").split()[:2]

    eventually(lambda: shown()[1].startswith("rolled"), state=shown)

    secret, _, outage = alert.partition("# 23 ")
    outage, _, recovery = outage.partition("# 24 ")
    with people() as (told, address):
        terminal.environment |= {"PAGER": f"{address}/pager", "SLACK": f"{address}/slack"}
        terminal.run(f"# 21 {secret}")
        with prometheus_of_the_cluster(tmp_path):
            terminal.run(f"# 23 {outage}")
            eventually(lambda: told.pages, 360)
    assert told.pages[0]["commonLabels"]["alertname"] == "MtorlRouterDown"
    assert told.pages[0]["commonLabels"]["namespace"] == NAMESPACE
    terminal.run(f"# 24 {recovery}")


@contextmanager
def prometheus_of_the_cluster(folder: Path) -> Iterator[None]:
    rules = get(NAMESPACE, "prometheusrule", "mtorl")["spec"]["groups"]
    secrets = get(NAMESPACE, "secret", "mtorl-alerting")["data"]
    with ExitStack() as until:
        config = configuration(folder, {name: base64.b64decode(value).decode() for name, value in secrets.items()})
        (port,) = free_ports(1)
        forward = f"while sleep 1; do kubectl -n {NAMESPACE} port-forward pod/mtorl-router-0 {port}:8080; done"
        forwarded = subprocess.Popen(
            ["bash", "-c", forward], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        )
        until.callback(lambda: os.killpg(forwarded.pid, signal.SIGTERM))
        scrapes = [scrape("mtorl-router", "/metrics", f"127.0.0.1:{port}", NAMESPACE)]
        url = until.enter_context(
            prometheus(folder, rules, scrapes, until.enter_context(alertmanager(folder, config)), "15s")
        )
        query = f"{url}/api/v1/query?query={urllib.parse.quote('mtorl_ready == 1')}"
        eventually(lambda: read(query)["data"]["result"])
        yield

"""Tests of the Grafana dashboards: they are current, and every query returns data."""

import json
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.dashboards.limits import limit, rules
from serving.local.ports import free_ports
from tests.manifests.alerting_stack import process, program
from tests.manifests.conftest import MANIFESTS, Objects
from tests.manifests.dashboard_data import NAMESPACE, NOW
from tests.repository import ROOT

pytestmark = pytest.mark.long


FOLDER = MANIFESTS / "base" / "dashboards"
WRITTEN: dict[str, str] = runpy.run_path(str(ROOT / "scripts" / "write_dashboards.py"))["texts"]()
BOARDS: dict[str, dict[str, Any]] = {name.removesuffix(".json"): json.loads(text) for name, text in WRITTEN.items()}
UIDS = sorted(BOARDS)
HOURS = 2.0


def panels(uid: str) -> list[dict[str, Any]]:
    return [panel for panel in BOARDS[uid]["panels"] if panel["type"] != "row"]


def test_the_dashboards_are_current_and_grafana_finds_them(production: Objects) -> None:
    """`kubectl apply` copies each ConfigMap into an annotation of at most 256 KiB."""
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert there == WRITTEN, "stale: run python scripts/write_dashboards.py"
    maps = [o for o in production.of_kind("ConfigMap") if o["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {name: text for o in maps for name, text in o["data"].items()} == WRITTEN
    for o in maps:
        assert o["metadata"]["name"].removeprefix("mtorl-dashboard-") == next(iter(o["data"]))[len("mtorl-") : -5]
        assert o["metadata"]["annotations"]["grafana_folder"] == "MTORL"
        assert len(json.dumps(o)) < 200_000
    assert set(re.findall(r'"uid\\?": \\?"(\$[^"\\]*)', json.dumps(list(BOARDS.values())))) == {"${datasource}"}


def test_every_alert_links_to_a_dashboard() -> None:
    for name, rule in rules().items():
        found = re.fullmatch(
            r"\{\{ \$externalLabels\.grafana \}\}/d/([\w-]+)\?var-namespace=\{\{ \$labels\.namespace \}\}"
            r"(&var-experiment=\{\{ \$labels\.experiment \}\})?",
            rule["annotations"].get("dashboard_url", ""),
        )
        assert found, f"{name}: no dashboard_url"
        assert found[1] in BOARDS, f"{name}: no dashboard {found[1]}"
        if found[2]:
            assert "experiment" in rule["expr"] and found[1] == "mtorl-experiment", name


@pytest.mark.parametrize(
    ("alert", "value", "above"),
    [
        ("MtorlFallbackRatioHigh", 0.05, True),
        # This rule also compares with 0.
        ("MtorlBudgetNearlySpent", 0.9, True),
        # This rule also compares with 1000.
        ("MtorlPolicyCollapsed", 0.85, True),
        ("MtorlSpoolNearlyFull", 0.2, False),
        ("MtorlMonitorStale", 10_800, True),  # 3 * 3600
        ("MtorlOperatorDown", 900, True),
    ],
)
def test_a_panels_limit_is_the_rules_limit(alert: str, value: float, above: bool) -> None:
    found = limit(alert)
    assert (found.value, found.above) == (value, above)
    drawn = [
        step["value"]
        for uid in UIDS
        for panel in panels(uid)
        if [link["title"] for link in panel.get("links", [])] == [alert]
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    ]
    assert value in drawn


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    metrics, blocks, port = folder / "metrics", folder / "blocks", free_ports(1)[0]
    made = [sys.executable, "-P", "-m", "tests.manifests.dashboard_data", str(metrics), str(HOURS)]
    subprocess.run(made, check=True, cwd=ROOT, env={"PYTHONPATH": str(Path(ROOT)), "PATH": "/usr/bin"})
    made = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(metrics), str(blocks)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    (folder / "prometheus.yml").write_text("{}")
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={blocks}"]
    options += ["--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}"]
    with process([program("prometheus"), *options], folder / "prometheus.log", port) as url:
        yield url


def _ask(prometheus: str, path: str, **parameters: str) -> dict[str, Any]:
    answer = httpx.get(f"{prometheus}/api/v1/{path}", params=parameters, timeout=30)
    assert answer.status_code == 200, f"{parameters}: {answer.text}"
    found: dict[str, Any] = answer.json()
    return found


def _asked(prometheus: str, target: dict[str, Any], namespace: str, experiment: str = "") -> list[dict[str, Any]]:
    """Run a panel's query with its variables filled in, as Grafana does; returns the series."""
    expr = target["expr"].replace("$namespace", namespace).replace("$experiment", experiment)
    assert "$" not in expr, expr
    if target.get("instant"):
        found = _ask(prometheus, "query", query=expr, time=str(NOW))
    else:
        start = str(NOW - HOURS * 3600)
        found = _ask(prometheus, "query_range", query=expr, start=start, end=str(NOW), step="60")
    # Ignore two known warnings: TorchServe's counters lack `_total`, and `mtorl_budget_spent` is a gauge.
    known = r'might not be a counter.*"(Requests\dXX|ts_\w+|mtorl_budget_spent)"'
    remarks = [one for one in (*found.get("warnings", []), *found.get("infos", [])) if not re.search(known, one)]
    assert not remarks, f"{expr}: {remarks}"
    series: list[dict[str, Any]] = found["data"]["result"]
    return series


def _has_numbers(series: list[dict[str, Any]]) -> bool:
    values = [value for one in series for value in one.get("values", [one.get("value")])]
    return any(math.isfinite(float(text)) for _, text in values)


def _values(prometheus: str, label: str, series: str) -> list[str]:
    found: list[str] = _ask(prometheus, f"label/{label}/values", **{"match[]": series})["data"]
    return found


def _experiments(prometheus: str) -> list[str]:
    (variable,) = [v for v in BOARDS["mtorl-experiment"]["templating"]["list"] if v["name"] == "experiment"]
    series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
    return _values(prometheus, label, series.replace("$namespace", NAMESPACE))


def test_the_variables_have_values(prometheus: str) -> None:
    assert _values(prometheus, "namespace", "mtorl_ready") == [NAMESPACE]
    assert {"mtorl-and-a-vendor", "done", "mtorl-vs-rules"} <= set(_experiments(prometheus))


@pytest.mark.parametrize("uid", UIDS)
def test_every_query_has_data_of_one_namespace(prometheus: str, uid: str) -> None:
    """Each query returns data for some experiment, but nothing for a namespace without MTORL.

    A zero would look healthy there.
    """
    experiments = _experiments(prometheus)
    for target in [*BOARDS[uid]["annotations"]["list"], *(one for panel in panels(uid) for one in panel["targets"])]:
        expr = target["expr"]
        assert not re.search(r"\b(user|unit|campaign)(_id)?\b", expr), f"{expr} has a user or a campaign as a label"
        chosen = experiments if "$experiment" in expr else [""]
        assert any(_has_numbers(_asked(prometheus, target, NAMESPACE, one)) for one in chosen), f"no data from {expr}"
        assert not _asked(prometheus, target, "nobody", "mtorl-and-a-vendor"), expr

import copy
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from monitoring.experiments.gauges import exposition
from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.exporter import MonitorCollector, RunsCollector
from monitoring.watch.state import STATE_FILE, State
from tests.manifests.alerting_stack import program
from tests.manifests.conftest import Objects, rendered
from tests.repository import ROOT

RUNBOOKS = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks"
CASES = {one.name: yaml.safe_load(one.read_text()) for one in sorted(Path(__file__).parent.glob("alerts_*test.yaml"))}


@pytest.fixture
def groups(production: Objects) -> list[dict[str, Any]]:
    (rule,) = production.of_kind("PrometheusRule")
    groups: list[dict[str, Any]] = rule["spec"]["groups"]
    return groups


@pytest.fixture
def alerts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_are_actionable_and_listed_in_the_pages(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        name = alert["alert"]
        assert name.startswith("Mtorl") and name.isalnum(), name
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert {"summary", "description", "runbook_url"} <= set(alert["annotations"]), name
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}/{name}.md"
        text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n") and "## First look" in text and "## Action" in text, name
        assert "## Kill switch" in text or "## Roll back" in text, name
        # Rules must be per namespace, because another namespace's metrics would hide that metrics are missing.
        assert "absent" not in alert["expr"], name
        sums = re.findall(r"\b(?:sum|count|min|max|avg|topk)\b(?: by \((\w+))?", alert["expr"])
        assert set(sums) <= {"namespace"}, name
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} == {alert["alert"] for alert in alerts}
    manual = (ROOT / "docs" / "cluster.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| (\w+) \|", manual, re.M)
    assert sorted(rows) == sorted((alert["alert"], alert["labels"]["severity"]) for alert in alerts)


def test_router_and_operator_export_the_metrics(alerts: list[dict[str, Any]]) -> None:
    pytest.importorskip("serving.router.ops.metrics")
    exported = (
        {
            name
            for metric in REGISTRY.collect()
            for name in (metric.name, f"{metric.name}_total", f"{metric.name}_bucket")
        }
        | set(re.findall(r"^# TYPE (\w+)", exposition([], leads=True).decode(), re.M))
        | _of_the_monitor()
        | set(re.findall(r'"(mtorl_online_\w+)"', (ROOT / "features" / "online" / "receiver.py").read_text()))
    )
    for alert in alerts:
        for name in re.findall(r"\bmtorl_\w+", alert["expr"]):
            assert name in exported, f"{alert['alert']}: no exporter has {name}"


def _of_the_monitor() -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, STATE_FILE)
        State(checked=datetime.now(UTC), newest_model=datetime.now(UTC)).write(path)
        PipelineRun.ended("mtorl-train", "SUCCEEDED", {}, None, datetime.now(UTC)).write(path.parent)
        collectors = (MonitorCollector(path), RunsCollector(path.parent))
        return {metric.name for collector in collectors for metric in collector.collect()}


def test_each_alert_has_a_case_in_which_it_fires(alerts: list[dict[str, Any]]) -> None:
    tests = [test for cases in CASES.values() for test in cases["tests"]]
    samples = [case for test in tests for case in test["promql_expr_test"] if case.get("exp_samples")]
    fired = {name for case in samples for name in re.findall(r'alertname="(\w+)"', str(case))}
    assert fired == {alert["alert"] for alert in alerts}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_when_they_should(name: str, groups: list[dict[str, Any]], tmp_path: Path) -> None:
    promtool = program("promtool")
    cases = copy.deepcopy(CASES[name])
    for test in cases["tests"]:
        for case in test.get("alert_rule_test", []):
            _add_dashboard(case, groups)
        times = {case["eval_time"] for case in test["promql_expr_test"]}
        test["promql_expr_test"] += [{"expr": 'ALERTS{namespace=""}', "eval_time": time} for time in sorted(times)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / name).write_text(yaml.safe_dump(cases))
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", name]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def _add_dashboard(case: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    rule = next(rule for group in groups for rule in group["rules"] if rule["alert"] == case["alertname"])
    url = rule["annotations"]["dashboard_url"].replace("{{ $externalLabels.grafana }}", "")
    for expected in case.get("exp_alerts", []):
        said = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found, of=expected: of["exp_labels"][found[1]], url)
        expected["exp_annotations"]["dashboard_url"] = said


def test_routers_scale_with_load_within_the_documented_numbers(production: Objects, tmp_path: Path) -> None:
    """The query adds up the routers' loads: 4 of 8 and 9 of 12 possible requests are the load of 1.25 full routers."""
    scaled = rendered("tests/everything").named("ScaledObject", "mtorl-router")["spec"]
    plain = production.named("HorizontalPodAutoscaler", "mtorl-router")["spec"]
    (row,) = re.findall(r"^\| router processes.*? \| (.*) \|$", (ROOT / "docs" / "capacity.md").read_text(), re.M)
    small, middle, large = map(int, row.split(" | "))
    for least, most in (
        (plain["minReplicas"], plain["maxReplicas"]),
        (scaled["minReplicaCount"], scaled["maxReplicaCount"]),
    ):
        assert small <= least and middle <= most / 2 and most < large
    series = [(f'mtorl_{name}{{namespace="mtorl", pod="{pod}"}}', f"{value}+0x20") for name, pod, value in (
        ("in_flight_requests", "a", 4), ("admission_limit", "a", 8),
        ("in_flight_requests", "b", 9), ("admission_limit", "b", 12),
    )]  # fmt: skip
    wanted = {"expr": scaled["triggers"][0]["metadata"]["query"], "eval_time": "5m", "exp_samples": [{"value": 1.25}]}
    series_of_test = [{"series": name, "values": values} for name, values in series]
    case = {"interval": "15s", "input_series": series_of_test, "promql_expr_test": [wanted]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    subprocess.run([program("promtool"), "test", "rules", "test.yaml"], cwd=tmp_path, check=True)

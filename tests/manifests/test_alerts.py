"""The alerts: every one can be acted on, and fires when it should (by promtool, where it is installed)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from tests.manifests.conftest import Objects, of_kind
from tests.repository import ROOT

RUNBOOKS = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks"
# What a runbook must hold; the two jobs' alerts have nothing to switch off in the experiment.
SECTIONS = ("## First look", "## Action")


@pytest.fixture
def groups(production: Objects) -> list[dict[str, Any]]:
    (rule,) = of_kind(production, "PrometheusRule")
    groups: list[dict[str, Any]] = rule["spec"]["groups"]
    return groups


@pytest.fixture
def alerts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_say_what_to_do(alerts: list[dict[str, Any]]) -> None:
    assert len(alerts) >= 7
    for alert in alerts:
        name = alert["alert"]
        assert name.startswith("Mtorl") and name.isalnum(), name
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert {"summary", "description", "runbook_url"} <= set(alert["annotations"]), name
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}/{name}.md"
        text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n"), name
        for section in SECTIONS:
            assert section in text, f"{name}: no {section}"
        assert "## Kill switch" in text or "## Roll back" in text, name


def test_every_runbook_has_an_alert(alerts: list[dict[str, Any]]) -> None:
    """MtorlFeatureDrift is posted by the drift job itself."""
    known = {alert["alert"] for alert in alerts} | {"MtorlFeatureDrift"}
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} == known


def test_the_router_exports_the_metrics(alerts: list[dict[str, Any]]) -> None:
    """On a metric that nobody exports an alert would never fire."""
    pytest.importorskip("serving.router.ops.metrics")
    exported = {
        name for metric in REGISTRY.collect() for name in (metric.name, f"{metric.name}_total", f"{metric.name}_bucket")
    }
    for alert in alerts:
        for name in re.findall(r"\bmtorl_\w+", alert["expr"]):
            assert name in exported, f"{alert['alert']}: nobody exports {name}"


def test_alerts_fire_when_they_should(groups: list[dict[str, Any]], tmp_path: Path) -> None:
    """The cases in alerts_test.yaml, through Prometheus's own rule engine."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

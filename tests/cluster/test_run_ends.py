"""Tests of the recorded ends of runs on a real Kubeflow Pipelines server.

KFP's own step status is wrong for some ends. The tests need promtool and what test_kfp.py needs, and take ten minutes
on two CPUs.
"""

import inspect
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from benchmarks.monitoring_runs import days
from monitoring.watch.exporter import RunsCollector
from tests import lakes
from tests.cluster.kfp_runs import LIST, WRITE_LOG, empty_volume, end_of, in_namespace, made, on_volume, started
from tests.manifests.alerting_stack import program
from tests.manifests.conftest import MANIFESTS
from tests.monitoring import written_log
from tests.monitoring.judged_experiment import CONTENT

pytestmark = [pytest.mark.cluster, pytest.mark.kfp]

LOG = {"source": "/mnt/mtorl/touchpoints.parquet", "dataset": "/mnt/mtorl/dataset.yaml"}
TRAINING = LOG | {"epochs": 1, "min_lift": -1, "deploy_seconds": 0}  # The gate promotes every model.
# Records of ten earlier nights, from which the usual time between successful runs is computed.
TEN_NIGHTS = """
from datetime import UTC, datetime, timedelta
from pathlib import Path
from monitoring.pipeline_runs import PipelineRun, RunEnd
for night in range(10, 0, -1):
    at = datetime.now(UTC) - timedelta(days=night)
    PipelineRun.ended("mtorl-retrain", RunEnd.SUCCEEDED, {}, "", at).write(Path("/mnt/mtorl/runs"))
"""
KEPT = """
import json
from pathlib import Path
print(json.dumps({path.name: path.read_text() for path in Path("/mnt/mtorl/runs").glob("*.json")}))
"""
# Modules that the image lacks. Each one may import those before it.
MODULES = {module.__name__: inspect.getsource(module) for module in (days, lakes, written_log)}
WRITE_DECISIONS = f"""
import sys
from types import ModuleType
for name, source in {MODULES!r}.items():
    module = sys.modules[name] = ModuleType(name)
    exec(source, module.__dict__)

from pathlib import Path
import pandas as pd
from tests.monitoring.written_log import write_decision_log
from mtorl.artifact.artifact import load
model = load(next(Path("/mnt/mtorl/registry/challenger").glob("*/artifact")))
names = [column.name for column in model.spec.context]
contexts = model.reference()[names].to_dict("records")
now = pd.Timestamp.now("UTC") - pd.Timedelta(hours=1)
times = [(now - pd.Timedelta(minutes=number % 600)).isoformat() for number in range(len(contexts))]
write_decision_log(Path("/mnt/mtorl/lake"), contexts, times, model_digest=model.digest)
print(min(times), max(times))
"""


@pytest.fixture
def volume(client: Any) -> Iterator[None]:
    with empty_volume():
        yield


def test_good_nights_pass_bad_ones_ring(client: Any, pipelines: dict[str, Path], volume: None, tmp_path: Path) -> None:
    def run(**parameters: dict[str, Any]) -> dict[str, Any]:
        names = {name: f"mtorl-{name}" for name in parameters}
        ids = {name: started(client, pipelines[names[name]], given) for name, given in parameters.items()}
        ends = {name: end_of(client, run_id) for name, run_id in ids.items()}
        for name, text in json.loads(on_volume(KEPT)).items():
            (tmp_path / name).write_text(text)
        kept = {name: json.loads((tmp_path / f"{names[name]}.json").read_text()) for name in parameters}
        for name, end in ends.items():
            assert (kept[name]["run"], kept[name]["state"]) == (end.id, end.state), (end, kept[name])
        return {name: (ends[name].steps, kept[name]) for name in parameters}

    on_volume(WRITE_LOG, "300", "1", "0")
    on_volume(TEN_NIGHTS)

    first = run(monitor={"since": "yesterday"}, retrain=TRAINING | {"most_days": 0.0001})
    assert first["retrain"][0]["publish"] == "SUCCEEDED", "a training must be due"
    steps, failed = first["monitor"]
    assert steps["verdict"] == "FAILED" and "not an ISO time" in failed["why"]["verdict"]
    assert failed["failed_in_a_row"] == 1 and failed["successes"] == []
    assert_fires(tmp_path, {("MtorlPipelineFailed", "mtorl-monitor")})

    second = run(retrain=TRAINING, train=TRAINING | {"min_lift": 9})
    assert second["retrain"][0]["condition-2"] == "SKIPPED", "no training is due"
    assert second["train"][0]["condition-2"] == "SKIPPED", "the gate must reject the challenger"
    for _, kept in second.values():
        assert kept["failed_in_a_row"] == 0 and kept["why"] == {} and kept["succeeded"] == kept["at"]

    in_namespace("apply", "-f", "-", stdin=made("ConfigMap", "mtorl-experiment", data=EXPERIMENT))
    try:
        on_volume(WRITE_DECISIONS)
        third = run(monitor={})
    finally:
        in_namespace("delete", "configmap", "mtorl-experiment")
    assert third["monitor"][1]["failed_in_a_row"] == 0
    assert "state.json" in on_volume(LIST, "monitor/*")
    assert_fires(tmp_path, set())
    assert_fires(tmp_path, {("MtorlPipelineMissed", "mtorl-retrain")}, hours=3 * 24)


EXPERIMENT = {"experiment.yaml": yaml.safe_dump(CONTENT)}


def assert_fires(runs: Path, expected: set[tuple[str, str]], hours: int = 1) -> None:
    """Assert with promtool which of the shipped alerts fire `hours` from now."""
    registry = CollectorRegistry()
    registry.register(RunsCollector(runs))
    now, series = datetime.now().timestamp(), []
    for sample in [sample for family in registry.collect() for sample in family.samples]:
        value = sample.value - now * sample.name.endswith("_timestamp_seconds")  # promtool's clock starts at zero
        labels = f'namespace="team", pipeline="{sample.labels["pipeline"]}"'
        series.append({"series": f"{sample.name}{{{labels}}}", "values": f"{value:.0f}x{hours}"})
    fires = {
        "expr": 'count by (alertname, pipeline) (ALERTS{alertname=~"MtorlPipeline.*", alertstate="firing"})',
        "eval_time": f"{hours}h",
        "exp_samples": [
            {"labels": f'{{alertname="{alert}", pipeline="{pipeline}"}}', "value": 1} for alert, pipeline in expected
        ],
    }
    rules = yaml.safe_load((MANIFESTS / "base" / "monitoring" / "rules.yaml").read_text())["spec"]
    test = {"interval": "1h", "input_series": series, "promql_expr_test": [fires]}
    (runs / "rules").write_text(yaml.safe_dump(rules))
    (runs / "test").write_text(yaml.safe_dump({"rule_files": ["rules"], "evaluation_interval": "1h", "tests": [test]}))
    done = subprocess.run([program("promtool"), "test", "rules", "test"], cwd=runs, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

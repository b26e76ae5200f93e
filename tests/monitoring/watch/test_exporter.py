import re
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.exporter import MOST_STREAMS, MonitorCollector
from monitoring.watch.state import NO_FAULT, STATE_FILE, Alarm, Group, NotJudged, Reason, State, Stream
from serving.local.ports import free_ports
from tests.repository import ROOT
from tests.waiting import eventually

LABELS = ("group", "experiment", "arm", "measure", "counted_in", "kind", "reason", "model_version")
END = datetime(2026, 1, 2, tzinfo=UTC)


def state() -> State:
    made = State(checked=END, judged_until=END, model_version="v7")
    made.groups = {
        "outcomes": Group(end=END, decisions=900, users=600),
        "context": Group(end=END, not_judged=NotJudged(reason="no_model", text="it is gone")),
        "journeys": Group(end=END, not_judged=NotJudged(reason="learning", text="3 periods seen")),
        "performance": Group(not_judged=NotJudged(reason="nothing_there", text="a rule")),
    }
    harm = Alarm(kind="harm", since=END, text="gain_per_decision is lower", arms=["spring/challenger"])
    made.streams = {
        "outcomes/gain_per_decision": Stream(
            value=0.06, expected=0.08, evidence=9e3, needed=4e3, loss=18.0, loss_unit="EUR", alarm=harm
        ),
        "decisions/incumbent/expected_gain": Stream(value=0.08, evidence=1.0, needed=4e3),
        "performance/eu/spring/challenger/auc": Stream(value=0.7),
        "context/a/b": Stream(value=0.01, expected=0.05),
    }
    made.broken = {"device": Alarm(kind="data_quality", since=END, text="device has no usable value")}
    return made


def scrape(of: Path | MonitorCollector) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(MonitorCollector(of) if isinstance(of, Path) else of)
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> dict[tuple[str, ...], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {}
    for each in samples:
        values = [each.labels[name] for name in LABELS if name in each.labels]
        found[each.name.removeprefix("mtorl_monitor_"), *values] = each.value
    assert len(found) == len(samples) and all(each.name.startswith("mtorl_monitor_") for each in samples)
    return found


def test_metrics_equal_the_state(tmp_path: Path) -> None:
    state().write(tmp_path / STATE_FILE)
    found = scrape(tmp_path / STATE_FILE)
    gain, device = ("outcomes", "", "", "gain_per_decision"), ("context", "", "", "device")
    auc = ("performance", "eu/spring", "challenger", "auc")
    expected = {
        ("state_readable",): 1.0,
        ("checked_timestamp_seconds",): END.timestamp(),
        ("period_end_timestamp_seconds", "outcomes"): END.timestamp(),
        ("period_decisions", "outcomes"): 900.0,
        ("period_users", "outcomes"): 600.0,
        ("harm_by_arm", "spring", "challenger", "gain_per_decision"): 1.0,
        ("not_judged", "context", "no_model"): 1.0,
        ("not_judged", "journeys", "learning"): 0.0,
        ("not_judged", "performance", "nothing_there"): 0.0,
        ("value", *gain): 0.06,
        ("expected", *gain): 0.08,
        ("evidence_ratio", *gain): 2.25,
        ("loss", *gain, "EUR"): 18.0,
        ("alarm", *gain, "harm"): 1.0,
        ("alarm", *gain, "drift"): 0.0,
        ("alarm", *device, "data_quality"): 1.0,
        ("alarm", *device, "harm"): 0.0,
        ("value", "decisions", "", "incumbent", "expected_gain"): 0.08,
        ("alarm", "decisions", "", "incumbent", "expected_gain", "harm"): 0.0,
        ("value", *auc): 0.7,
        ("alarm", *auc, "drift"): 0.0,
        ("value", "context", "", "", "a/b"): 0.01,
        ("retrain_requested",): 0.0,
        ("state_info", "v7"): 1.0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("not_judged", "outcomes") not in {key[:2] for key in found}
    assert ("period_end_timestamp_seconds", "performance") not in found, "without an end, no metric"
    assert ("expected", "decisions", "", "incumbent", "expected_gain") not in found, "unknown, so no metric"


@pytest.mark.parametrize(
    "text", [None, "", "{", '{"version": 9}', "{}"], ids=["none", "empty", "half", "newer", "unchecked"]
)
def test_alarms_last_while_the_state_is_unreadable(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    state().write(path)
    collector = MonitorCollector(path)
    known = scrape(collector)
    assert known["alarm", "outcomes", "", "", "gain_per_decision", "harm"] == 1.0
    path.unlink() if text is None else path.write_text(text)
    for _ in range(2):
        assert scrape(collector) == known | {("state_readable",): 0.0}
    assert scrape(path) == {("state_readable",): 0.0}, "a new process knows no alarms"
    over = state()
    over.streams["outcomes/gain_per_decision"].alarm = None
    over.write(path)
    again = scrape(collector)
    assert again["state_readable",] == 1.0 and again["alarm", "outcomes", "", "", "gain_per_decision", "harm"] == 0.0


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    many, drift = state(), Alarm(kind="drift", since=END, text="it has moved")
    many.streams |= {f"context/c{i:04}": Stream(value=0.01, expected=0.05, needed=1e4) for i in range(1_000)}
    many.write(tmp_path / STATE_FILE)
    quiet = scrape(tmp_path / STATE_FILE)
    assert sum(key[0] == "value" for key in quiet) <= MOST_STREAMS
    assert sum(key[0] == "alarm" for key in quiet) == 3 * MOST_STREAMS
    # The number of exported streams is limited. Those with alarms come first, paging alarms before all.
    for i in range(0, 1_000, 2):
        many.streams[f"context/c{i:04}"].alarm = drift
    many.write(tmp_path / STATE_FILE)
    loud = scrape(tmp_path / STATE_FILE)
    alarms = {key for key, value in loud.items() if key[0] == "alarm" and value == 1.0}
    assert len(alarms) == MOST_STREAMS
    assert ("alarm", "outcomes", "", "", "gain_per_decision", "harm") in alarms


def test_each_fault_reason_has_a_row_in_its_runbook() -> None:
    text = (ROOT / "docs" / "runbooks" / "MtorlNotJudged.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M)) - {"reason"} == set(get_args(Reason)) - set(NO_FAULT)


@pytest.mark.integration
def test_a_real_scrape_of_a_process_that_stops_on_a_signal(tmp_path: Path) -> None:
    state().write(tmp_path / STATE_FILE)
    (port,) = free_ports(1)
    runs = tmp_path / "runs"
    PipelineRun.ended("mtorl-train", "FAILED", {"ingest": "no such file"}, "", END).write(runs)
    of_it = [f"--state={tmp_path}", f"--runs={runs}", f"--port={port}", "--host=127.0.0.1"]
    command = [sys.executable, "-m", "cli.main", "monitor", "export", *of_it]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        whole = _get(port, process)
        assert 'mtorl_pipeline_run_failed{pipeline="mtorl-train"} 1.0' in whole
        found = parsed(_of_state(whole))
        assert found["state_readable",] == 1.0
        assert found["alarm", "outcomes", "", "", "gain_per_decision", "harm"] == 1.0
        (tmp_path / STATE_FILE).write_text("{")
        assert parsed(_of_state(_get(port, process))) == found | {("state_readable",): 0.0}
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said == ""


def _of_state(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "mtorl_pipeline_" not in line) + "\n"


def _get(port: int, process: subprocess.Popen[str]) -> str:
    def read() -> str:
        assert process.poll() is None
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())

    return eventually(read, 300)

"""Tests that alerts reach their receivers through Prometheus and Alertmanager.

All tests share one stack, and each test leaves it without firing alerts.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from monitoring.watch.exporter import MonitorCollector
from monitoring.watch.state import STATE_FILE, Alarm, Group, State, Stream
from monitoring.watch.stream_names import column_stream, stream_of
from tests.manifests.alerting_stack import NAMESPACE, PASSWORD, RULES, Stack, running
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROUTER = """
mtorl_ready {ready}
mtorl_arm_silent_seconds{{experiment="spring",arm="challenger"}} {silent}
mtorl_arm_silent_seconds{{experiment="autumn",arm="challenger"}} {silent}
mtorl_arm_silent_seconds{{experiment="spring",arm="incumbent"}} 0
mtorl_experiment_refused 0
mtorl_experiment_enabled{{experiment="spring"}} 1
"""
CLUSTER = f"""
kube_statefulset_created{{namespace="{NAMESPACE}",statefulset="mtorl-router"}} 1
"""
COLUMNS = [f"column{number}" for number in range(10)]
GAIN = stream_of("outcomes", "", "gain_per_decision")


def groups() -> list[dict[str, Any]]:
    """Return the shipped rules without those for jobs, which do not run in these tests."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return [group for group in found if group["name"] != "mtorl-jobs"]


def monitor(moved: Iterable[str] = (), broken: Iterable[str] = (), harm: bool = False) -> str:
    """Return metrics of the monitor with drift alarms for `moved`, data alarms for `broken`, and perhaps harm."""
    now = datetime.now(UTC)
    state = State(checked=now, judged_until=now, model_version="3f2a9c", groups={"context": Group(end=now, users=500)})
    for column in COLUMNS:
        alarm = Alarm(kind="drift", since=now, text="of a test") if column in moved else None
        state.streams[column_stream(column)] = Stream(value=0.2 if alarm else 0.01, expected=0.05, alarm=alarm)
    if harm:
        alarm = Alarm(kind="harm", since=now, text="of a test", arms=["spring/challenger"])
        state.streams[GAIN] = Stream(value=0.2, expected=0.05, loss=120.0, loss_unit="clicks", alarm=alarm)
    for column in broken:
        state.broken[column] = Alarm(kind="data_quality", since=now, text="of a test")
    with TemporaryDirectory() as folder:
        path = Path(folder, STATE_FILE)
        state.write(path)
        registry = CollectorRegistry()
        registry.register(MonitorCollector(path))
        return generate_latest(registry).decode()


@pytest.fixture(scope="module")
def healthy() -> dict[str, str]:
    return {"router": ROUTER.format(ready=1, silent=0), "monitor": monitor(), "cluster": CLUSTER}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, healthy: dict[str, str]) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("alerting"), groups(), healthy) as stack:
        yield stack


@pytest.fixture
def stack(installation: Stack, healthy: dict[str, str]) -> Iterator[Stack]:
    installation.metrics.update(healthy)
    installation.evaluations(2)
    eventually(lambda: not installation.alerts() and not installation.people.waits())
    for heard in (installation.people.pages, installation.people.slack, installation.people.mail):
        heard.clear()
    yield installation


def test_ten_shifted_columns_are_one_ticket_and_one_resolve(stack: Stack) -> None:
    stack.metrics["monitor"] = monitor(COLUMNS)
    eventually(lambda: stack.people.slack and stack.people.mail)
    stack.evaluations(4)  # still firing: no second notification
    stack.metrics["monitor"] = monitor()
    eventually(lambda: len(stack.people.slack) > 1 and len(stack.people.mail) > 1)
    stack.evaluations(4)
    title = f"1] warning MtorlDrift in {NAMESPACE}"
    assert stack.people.titles() == [f"[FIRING:{title}", f"[RESOLVED:{title}"]
    assert [message["Subject"] for message in stack.people.mail] == stack.people.titles()
    fired, _ = stack.people.slack
    assert all(column in fired["text"] for column in COLUMNS)
    mail = stack.people.mail[0]
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
    text = part.get_payload(decode=True)
    assert isinstance(text, bytes) and "MtorlDrift.md" in text.decode(), "the runbook must be in the text"
    assert not any(part.get_content_type() == "text/html" for part in mail.walk())
    assert set(stack.people.logins) == {("mtorl-alerts@example.org", PASSWORD)}
    assert stack.people.pages == [], "drift does not page"


def test_broken_data_page_once_and_suppress_the_drift(stack: Stack) -> None:
    stack.metrics["monitor"] = monitor(COLUMNS[1:3], broken=COLUMNS[:1])
    eventually(lambda: stack.people.pages)
    eventually(lambda: "MtorlDrift" in stack.suppressed())
    stack.evaluations(8)
    assert stack.people.titles() == [f"[FIRING:1] critical MtorlDataBroken in {NAMESPACE}"], "also on Slack"
    (page,) = stack.people.pages
    assert page["status"] == "firing" and page["receiver"] == "mtorl-pager"
    assert page["groupLabels"] == {"namespace": NAMESPACE, "alertname": "MtorlDataBroken"}
    stack.metrics["monitor"] = monitor(COLUMNS[1:3])  # data repaired, but the drift remains
    eventually(lambda: f"[FIRING:1] warning MtorlDrift in {NAMESPACE}" in stack.people.titles())
    eventually(lambda: len(stack.people.pages) > 1)
    assert [one["status"] for one in stack.people.pages] == ["firing", "resolved"]


def test_harm_pages_despite_other_alerts(stack: Stack) -> None:
    """The other two alerts may not be the cause of the harm, so all three are sent."""
    stack.metrics["router"] = ROUTER.format(ready=0, silent=0)
    stack.metrics["monitor"] = monitor(COLUMNS, broken=COLUMNS[:1], harm=True)
    wanted = {"MtorlRouterDown", "MtorlDataBroken", "MtorlHarm"}
    eventually(lambda: {one["groupLabels"]["alertname"] for one in stack.people.pages} >= wanted)
    eventually(lambda: stack.suppressed() == {"MtorlDrift"})
    assert len(stack.people.pages) == 3 and not stack.people.mail
    harm = next(one for one in stack.people.slack if "MtorlHarm" in one["title"])
    assert (
        f"{NAMESPACE}: gain_per_decision is" in harm["text"] and "120 clicks lost in the newest period" in harm["text"]
    )


def test_consequences_of_a_stopped_router_are_no_tickets(stack: Stack) -> None:
    stack.metrics["router"] = ROUTER.format(ready=0, silent=0)
    eventually(lambda: stack.people.pages)
    stack.metrics["router"] = ROUTER.format(ready=0, silent=300)
    eventually(lambda: stack.suppressed() == {"MtorlArmSilent"})
    stack.evaluations(8)
    assert stack.people.titles() == [f"[FIRING:1] critical MtorlRouterDown in {NAMESPACE}"]
    stack.metrics["router"] = ROUTER.format(ready=1, silent=300)
    eventually(lambda: f"[FIRING:2] warning MtorlArmSilent in {NAMESPACE}" in stack.people.titles())

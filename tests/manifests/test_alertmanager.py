"""Tests that the two shipped Alertmanager configurations are equal and treat each alert correctly."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.manifests.alerting_stack import PLAIN, RULES, SECRETS, program
from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT

OBJECT = MANIFESTS / "base" / "alerting" / "config.yaml"
SECRET = "mtorl-alerting"
TEMPLATES = dict(
    re.findall(
        r'\{\{ define "([\w.]+)" \}\}(.*?)\{\{ end \}\}(?=\n\n|\n\Z)',
        PLAIN.with_name("messages.tmpl").read_text(),
        re.S,
    )
)
# Labels that come from a rule's metric and that inhibitions compare.
MEASURED = {
    "MtorlNotJudged": {"reason": "no_decisions"},
    "MtorlPipelineFailed": {"pipeline": "mtorl-train"},
    "MtorlPipelineMissed": {"pipeline": "mtorl-train"},
}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(PLAIN.read_text())
    return config


@pytest.fixture(scope="module")
def alerts() -> dict[str, dict[str, str]]:
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {
        one["alert"]: {"alertname": one["alert"], **one["labels"], **MEASURED.get(one["alert"], {})} for one in rules
    }


def amtool(*arguments: str) -> str:
    done = subprocess.run([program("amtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_two_configurations_are_equal(plain: dict[str, Any]) -> None:
    """The Prometheus Operator creates the top-level route, so it is not compared."""
    spec = yaml.safe_load(OBJECT.read_text())["spec"]
    (route,) = plain["route"]["routes"]
    assert spec.keys() == {"route", "receivers", "inhibitRules"}
    assert _as_plain(spec["route"]) == route
    assert _as_plain(spec["receivers"]) == _with_words(plain["receivers"])
    assert _as_plain(spec["inhibitRules"]) == plain["inhibit_rules"]


_NAMES = {"sourceMatch": "source_matchers", "targetMatch": "target_matchers", "inhibitRules": "inhibit_rules"}
_FILES = {"urlSecret": "url_file", "apiURL": "api_url_file", "authPassword": "auth_password_file"}


def _as_plain(node: Any) -> Any:
    """Translate an AlertmanagerConfig into a plain configuration, as the Prometheus Operator does."""
    if isinstance(node, list):
        return [_as_plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {"name", "matchType", "value"}:
        # The object always uses "=~". For a single word, "=" means the same.
        assert node["matchType"] == "=~"
        operator = "=" if re.fullmatch(r"\w+", node["value"]) else "=~"
        return f'{node["name"]}{operator}"{node["value"]}"'
    found = {}
    for name, value in node.items():
        if name in _FILES:
            assert value.keys() == {"name", "key"} and value["name"] == SECRET
            found[_FILES[name]] = SECRETS + value["key"]
        elif name == "headers":
            found[name] = {header["key"]: header["value"] for header in value}
        else:
            snake = re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
            found[_NAMES.get(name, snake)] = _as_plain(value)
    return found


def _with_words(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_words(each) for each in node]
    if isinstance(node, dict):
        return {name: _with_words(value) for name, value in node.items()}
    name = re.fullmatch(r'\{\{ template "([\w.]+)" \. \}\}', node) if isinstance(node, str) else None
    return TEMPLATES[name[1]] if name else node


@pytest.mark.long
def test_receivers_of_each_alert(alerts: dict[str, dict[str, str]]) -> None:
    receivers = {"critical": "mtorl-pager", "warning": "mtorl-ticket", "info": "mtorl-nobody", "": "mtorl-ticket"}
    assert {labels["severity"] for labels in alerts.values()} <= receivers.keys()
    cases = [*alerts.values(), {"alertname": "MtorlOfTomorrow", "severity": ""}, {"alertname": "Other", "severity": ""}]
    for labels in cases:
        said = [f"{name}={value}" for name, value in {**labels, "namespace": "mtorl"}.items() if value]
        wanted = receivers[labels["severity"]]
        amtool("config", "routes", "test", f"--config.file={PLAIN}", f"--verify.receivers={wanted}", *said)


def test_receivers_have_a_channel_get_resolves_and_pages_are_not_delayed(plain: dict[str, Any]) -> None:
    receivers = {one["name"]: {way: found for way, found in one.items() if way != "name"} for one in plain["receivers"]}
    assert {name: set(found) for name, found in receivers.items()} == {
        "mtorl-pager": {"webhook_configs", "slack_configs"},
        "mtorl-ticket": {"slack_configs", "email_configs"},
        "mtorl-nobody": set(),
    }
    for found in receivers.values():
        assert all(config["send_resolved"] is True for (config,) in found.values())
    (ticket,) = plain["route"]["routes"]
    page = ticket["routes"][0]
    for name in ("group_wait", "group_interval", "repeat_interval"):
        assert _seconds(page[name]) < _seconds(ticket[name])
    assert _seconds(ticket["repeat_interval"]) < 120 * 3600, "by default, Alertmanager keeps its log for 120 hours"
    assert ticket["group_by"] == ["namespace", "alertname"] == plain["route"]["group_by"]
    assert not any("group_by" in route for route in ticket["routes"])


def _seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def _matches(matchers: list[str], labels: dict[str, str]) -> bool:
    for matcher in matchers:
        name, operator, value = re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher).groups()  # type: ignore[union-attr]
        said = labels.get(name, "")
        if not (re.fullmatch(value, said) if operator == "=~" else said == value):
            return False
    return True


def _pairs(plain: dict[str, Any], alerts: dict[str, dict[str, str]]) -> set[tuple[str, str]]:
    return {
        (source, target)
        for rule in plain["inhibit_rules"]
        for source, of in alerts.items()
        for target, to in alerts.items()
        if _matches(rule["source_matchers"], of) and _matches(rule["target_matchers"], to)
    }


def test_alerts_with_own_causes_are_not_suppressed(plain: dict[str, Any], alerts: dict[str, dict[str, str]]) -> None:
    """Every alert in an inhibition must exist, because a renamed alert would silently disable the inhibition."""
    named = re.findall(r'alertname=~?"(.*?)"', yaml.safe_dump(plain["inhibit_rules"]))
    assert named and {name for matcher in named for name in matcher.split("|")} <= alerts.keys()
    pairs = _pairs(plain, alerts)
    suppressed = {alerts[target]["alertname"] for _, target in pairs}
    assert {name for name in suppressed if alerts[name]["severity"] == "critical"} == {"MtorlNoDecisions"}
    assert not {name for name in suppressed if alerts[name].get("kind") in ("harm", "data_quality")}
    for source, target in pairs:
        assert (target, source) not in pairs, f"{source} and {target} suppress each other: neither would be sent"
    for rule in plain["inhibit_rules"]:
        assert "namespace" in rule["equal"], "an alert must not suppress another installation's"
        # A rule that compares the experiments of two alerts must also compare their arms, and vice versa.
        for name in ("experiment", "arm"):
            if name in rule["equal"]:
                assert "arm" in rule["equal"] and "experiment" in rule["equal"]


def test_the_manual_lists_all_inhibitions(plain: dict[str, Any], alerts: dict[str, dict[str, str]]) -> None:
    manual = (ROOT / "docs" / "alerting.md").read_text()
    rows = re.findall(r"^\| (Mtorl[^|]*) \| (Mtorl[^|]*) \| [^|]+ \|", manual, re.M)
    said = {(s, t) for sources, targets in rows for s in sources.split(", ") for t in targets.split(", ")}
    assert said == _pairs(plain, alerts)

"""Reads the alerts' limits, runbooks and dashboards from the alert rules.

    limit("MtorlFallbackRatioHigh")     # Limit(value=0.05, above=True, color="orange")
    alerts_of("mtorl-budget")           # the alerts whose annotation dashboard_url links to this dashboard

A dashboard therefore always shows the threshold of its alert rule.
"""

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RULES = Path(__file__).parents[2] / "manifests" / "base" / "monitoring" / "rules.yaml"
COLORS = {"critical": "red", "warning": "orange", "info": "blue"}
_COMPARED = r"([<>])=? (\d[\d.]*(?: \* \d[\d.]*)*)(?![\d.])"  # operator, then a number or a product


class Limit(NamedTuple):
    """The limit of an alert, which fires above or below it."""

    value: float
    above: bool
    color: str


@functools.cache
def rules() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name. If an alert has several severities, the first rule has the highest one."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]["groups"]
    found: dict[str, dict[str, Any]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        found.setdefault(rule["alert"], rule)
    return found


def limit(alert: str) -> Limit:
    """Return the limit of an alert: the last non-zero number in its rule that follows a comparison operator."""
    compared = re.findall(_COMPARED, rules()[alert]["expr"])
    found = [(sign, math.prod(map(float, number.split(" * ")))) for sign, number in compared]
    sign, value = [one for one in found if one[1] != 0][-1]
    return Limit(value, sign != "<", color_of(alert))


def color_of(alert: str) -> str:
    """Return the color of an alert's severity."""
    return COLORS[rules()[alert]["labels"]["severity"]]


def alerts_of(uid: str) -> list[str]:
    """List the alerts that link to a dashboard."""
    return [name for name, rule in rules().items() if f"/d/{uid}?" in rule["annotations"].get("dashboard_url", "")]

"""The alerts, as the dashboards need them: their limits, pages and dashboards, all out of the rules themselves.

    limit("MtorlFallbackRatioHigh")     # Limit(value=0.05, above=True, color="orange")
    alerts_of("mtorl-budget")           # the alerts whose annotation dashboard_url leads to that dashboard

A number that a rule and a picture of it share is written once.
"""

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RULES = Path(__file__).parents[2] / "manifests" / "base" / "monitoring" / "rules.yaml"
COLORS = {"critical": "red", "warning": "orange", "info": "blue"}
_COMPARED = r"([<>])=? (\d[\d.]*(?: \* \d[\d.]*)*)(?![\d.])"  # operator, and number or product


class Limit(NamedTuple):
    """Limit above or below which an alert fires."""

    value: float
    above: bool
    color: str


@functools.cache
def rules() -> dict[str, dict[str, Any]]:
    """All alerts, by name; of an alert with several severities the first rule, which is that of the highest."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]["groups"]
    found: dict[str, dict[str, Any]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        found.setdefault(rule["alert"], rule)
    return found


def limit(alert: str) -> Limit:
    """The limit of an alert: the last number in its rule, other than 0, that something is compared with."""
    compared = re.findall(_COMPARED, rules()[alert]["expr"])
    found = [(sign, math.prod(map(float, number.split(" * ")))) for sign, number in compared]
    sign, value = [one for one in found if one[1] != 0][-1]
    return Limit(value, sign != "<", color_of(alert))


def color_of(alert: str) -> str:
    """The color of an alert's severity."""
    return COLORS[rules()[alert]["labels"]["severity"]]


def alerts_of(uid: str) -> list[str]:
    """The alerts that lead to a dashboard."""
    return [name for name, rule in rules().items() if f"/d/{uid}?" in rule["annotations"].get("dashboard_url", "")]

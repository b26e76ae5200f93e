"""Reads thresholds, runbooks and dashboards of alerts from the file with the alert rules."""

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RULES = Path(__file__).parents[2] / "manifests" / "base" / "monitoring" / "rules.yaml"
COLORS = {"critical": "red", "warning": "orange", "info": "blue"}
# Matches a comparison such as `> 0.05` or `< 2 * 3600`.
_COMPARED = r"([<>])=? (\d[\d.]*(?: \* \d[\d.]*)*)(?![\d.])"


class Limit(NamedTuple):
    """The threshold of an alert. The alert fires above the threshold or below it."""

    value: float
    above: bool
    color: str


@functools.cache
def rules() -> dict[str, dict[str, Any]]:
    """Return the rule with the highest severity for each alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]["groups"]
    found: dict[str, dict[str, Any]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        found.setdefault(rule["alert"], rule)
    return found


def limit(alert: str) -> Limit:
    """Return the threshold of an alert: the last number in its rule that follows < or > and is not 0."""
    compared = re.findall(_COMPARED, rules()[alert]["expr"])
    found = [(sign, math.prod(map(float, number.split(" * ")))) for sign, number in compared]
    sign, value = [one for one in found if one[1] != 0][-1]
    return Limit(value, sign != "<", color_of(alert))


def color_of(alert: str) -> str:
    """Return the color that belongs to the severity of an alert."""
    return COLORS[rules()[alert]["labels"]["severity"]]


def alerts_of(uid: str) -> list[str]:
    """List the alerts that link to a dashboard."""
    return [name for name, rule in rules().items() if f"/d/{uid}?" in rule["annotations"].get("dashboard_url", "")]

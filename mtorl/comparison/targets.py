"""The table of targets: what was wanted, what was measured, and whether the interval says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtorl.comparison.cells import Interval, combined, interval, metric_title, percent, table
from mtorl.comparison.jobs import ABOUT
from mtorl.comparison.methods import OURS
from mtorl.comparison.tables import Tasks

_PAIRED = ("action_accuracy", "action_auc", "action_logloss", "reward_auc", "reward_logloss")
_HIGHER = ("action_accuracy", "action_auc", "reward_auc")
_ECE = 0.012  # highest calibration error
_NOT_WORSE = 0.002  # tolerance of a reward metric below the yardstick


def targets(results: Mapping[str, Any]) -> str:
    """One row for each target of each data set.

    Args:
        results: Figures of each data set (`mtorl.comparison.jobs.collect`).
    """
    lines = [line for dataset, figures in results.items() for line in _targets_of(dataset, figures)]
    return table(["data set", "what", "target", "measured", ""], lines)


def _targets_of(dataset: str, figures: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    for protocol in (name for name in ("user", "time") if name in figures):
        tasks, disjoint = figures[protocol], protocol == "user"
        differences = [task["compared"]["differences"][OURS] for task in tasks]
        for metric in _PAIRED:
            value = combined(differences, metric, disjoint)
            if value is None or (metric.startswith("action") and not _channel_has_signal(figures)):
                continue
            sign = 1 if metric in _HIGHER else -1
            mean, low, high = _more_is_better(sign, value)
            tolerance = _NOT_WORSE if metric.startswith("reward") else 0.0
            goal = "at least LightGBM" + (f", or within {tolerance} of it" if tolerance else "")
            shown = f"{interval((mean, low, high), signed=True)} better"
            verdict = _verdict((mean, low, high), tolerance)
            lines.append([dataset, f"{protocol}: {metric_title(metric)}", goal, shown, verdict])
        for metric in ("action_ece", "reward_ece"):
            lines.append(
                [dataset, f"{protocol}: {metric_title(metric)}", f"at most {_ECE}", *_calibration(tasks, metric)]
            )
        if protocol == "user":
            lines += _user_targets(dataset, tasks)
    return lines


def _user_targets(dataset: str, tasks: Tasks) -> list[list[str]]:
    lines = []
    if tasks[0]["budget"]:
        for i, row in enumerate(tasks[0]["budget"][OURS][:4]):
            ours = [task["budget"][OURS][i] for task in tasks]
            less = [combined(ours, f"mtorl_minus_{name}", True) for name in ("rival", "cheapest")]
            what = f"click share at {100 * row['share']:g} % of spend: {percent(np.mean([r['mtorl'] for r in ours]))}"
            shown = "; ".join(interval(value, signed=True) for value in less)
            verdicts = [_verdict(value) for value in less if value is not None]
            worst = max(verdicts, key=("met", "undecided", "**missed**").index)
            goal = "above LightGBM's gain / cost; above cheapest first"
            lines.append([dataset, what, goal, shown, worst])
    else:
        values = [task["value"][f"{OURS}: best expected gain"] for task in tasks]
        lift = combined([value["estimates"]["dr"] for value in values], "lift", True)
        if lift is not None:
            goal = "policy value at 37.5 % exposure above the selection's own"
            share = np.mean([value["importance_weights"]["ess_share"] for value in values])
            shown = f"{interval(lift, signed=True, places=3)}, ESS / rows {share:.2f}"
            lines.append([dataset, "DR less logged, best expected gain", goal, shown, _verdict(lift)])
    costs = [task["costs"][OURS] for task in tasks]
    seconds = float(np.mean([cost["seconds_to_best"] for cost in costs]))
    what = "training to the best validation, one thread, CPU"
    lines.append(_line(dataset, what, "at most 60 s", f"{seconds:.0f} s", seconds <= 60))
    size = costs[0]["parameters"]
    lines.append(_line(dataset, "parameters", "at most 300,000", f"{size:,}", size <= 300_000))
    return lines


def _calibration(tasks: Tasks, metric: str) -> list[str]:
    """A calibration error with its noise, and whether the target is met."""
    ece = float(np.mean([task["compared"]["metrics"][OURS][metric] for task in tasks]))
    noise, high = (
        np.mean([task["calibration_noise"][metric][name] for task in tasks]) for name in ("noise", "noise_high")
    )
    verdict = "met" if ece <= _ECE else "**missed**, within noise" if ece <= high else "**missed**"
    return [f"{ece:.4f}, of it noise {noise:.4f}", verdict]


def _more_is_better(sign: int, value: Interval) -> Interval:
    """Mean and bounds of a difference, turned so that more is better."""
    mean, low, high = value
    return (mean, low, high) if sign > 0 else (-mean, -high, -low)


def _channel_has_signal(figures: Mapping[str, Any]) -> bool:
    return not figures[ABOUT]["independence"]["independent"]


def _verdict(better: Interval, tolerance: float = 0.0) -> str:
    """Whether an interval says that a difference is not below zero, or not further than `tolerance`."""
    _, low, high = better
    if low >= -tolerance:
        return "met"
    return "**missed**" if high < 0 else "undecided"


def _line(dataset: str, what: str, goal: str, measured: str, good: bool) -> list[str]:
    return [dataset, what, goal, measured, "met" if good else "**missed**"]

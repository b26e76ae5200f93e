"""Numbers as the cells of a Markdown table, and what several folds say together.

combined([fold["differences"] for fold in folds], "reward_auc", disjoint=True)     # mean, lower and upper bound
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_Z = 1.96  # standard errors of a 95 % interval

Interval = tuple[float, float, float]
"""Mean, lower and upper bound."""


def combined(differences: Sequence[Mapping[str, Any]], metric: str, disjoint: bool) -> Interval | None:
    """Mean of a difference (NAME and NAME_ci of each fold) and its interval; disjoint folds test different users."""
    rows = [row for row in differences if row.get(metric) is not None and row.get(f"{metric}_ci")]
    if not rows:
        return None
    mean = float(np.mean([row[metric] for row in rows]))
    errors = np.array([(row[f"{metric}_ci"][1] - row[f"{metric}_ci"][0]) / (2 * _Z) for row in rows])
    error = float(np.sqrt((errors**2).sum()) / len(rows)) if disjoint else float(errors.mean())
    return mean, mean - _Z * error, mean + _Z * error


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: Sequence[float | None], places: int) -> str:
    """Mean of folds or seeds and, of several, their standard deviation; "-" without numbers."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    text = f"{np.mean(numbers):.{places}f}"
    return text if len(numbers) == 1 else f"{text} ± {np.std(numbers, ddof=1):.{places}f}"


def percent(value: float) -> str:
    """A share as a percentage; "-" for NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(value: Interval | None, signed: bool = False, places: int = 4) -> str:
    """A mean with its bounds; "-" for None."""
    if value is None:
        return "-"
    form: Callable[[float], str] = (lambda x: f"{x:+.{places}f}") if signed else (lambda x: f"{x:.{places}f}")
    return f"{form(value[0])} [{form(value[1])}, {form(value[2])}]"


def metric_title(metric: str) -> str:
    """The head and name of a metric, for people: "reward AUC"."""
    head, name = metric.split("_", 1)
    name = {"auc": "AUC", "ece": "ECE", "logloss": "log-loss"}.get(name, name)
    return f"{'channel' if head == 'action' else 'reward'} {name}"

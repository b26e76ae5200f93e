"""The metrics that an experiment file may name: each is a ratio of two sums over a user's decisions.

A new metric is one line in METRICS, and its name in words in `plain_words.METRICS` if the name itself does not read
well. The expressions are DuckDB SQL over one decision with its outcomes:

    click, conversion, revenue, cost      sums of its outcomes, 0 if there are none
    weight                                1, or that of a replay
    expose, fallback_reason, latency_seconds ...    fields of the decision record (`mtorl.log.records`)
"""

from __future__ import annotations

from typing import NamedTuple

GAINS = ("click", "conversion", "revenue")  # outcomes that may be an experiment's gain
OUTCOMES = (*GAINS, "cost")


class Metric(NamedTuple):
    """Numerator and denominator of a metric, of one decision."""

    numerator: str
    denominator: str = "1"


METRICS = {f"{kind}_per_decision": Metric(f"weight * {kind}", "weight") for kind in OUTCOMES} | {
    "exposure_ratio": Metric("expose::INT"),
    "fallback_ratio": Metric("(fallback_reason IS NOT NULL)::INT"),
    "latency_seconds": Metric("latency_seconds"),
}


def metric_of(name: str, gain: str) -> str:
    """Name of a metric in METRICS; "gain_per_decision" is that of the outcome that counts as gain.

    Raises:
        ValueError: there is no such metric.
    """
    resolved = f"{gain}_per_decision" if name == "gain_per_decision" else name
    if resolved not in METRICS:
        raise ValueError(f"metric {name!r} is not known; known: gain_per_decision, {', '.join(METRICS)}")
    return resolved


def sums() -> str:
    """SQL: the two sums of every metric, as columns `NAME_numerator` and `NAME_denominator`."""
    return ", ".join(
        f"sum({getattr(metric, part)})::DOUBLE AS {name}_{part}"
        for name, metric in METRICS.items()
        for part in Metric._fields
    )

"""The metrics that an experiment file may name: each is a ratio of two sums over a user's decisions.

A new metric is one line in METRICS, and its name in words in `monitoring.plain_words.METRICS` if the name itself does
not read well. The expressions are DuckDB SQL over one decision with its outcomes:

    click, conversion, revenue, cost      sums of its outcomes, 0 if there are none
    weight                                1, or that of a replay
    expose, fallback_reason, latency_seconds ...    fields of the decision record (`mtorl.log.records`)
"""

from __future__ import annotations

from typing import NamedTuple

GAINS = ("click", "conversion", "revenue")  # outcomes that may be an experiment's gain
OUTCOMES = (*GAINS, "cost")
GAIN = "gain_per_decision"  # whichever of them is the gain of the data set


class Metric(NamedTuple):
    """Numerator and denominator of a metric, of one decision."""

    numerator: str
    denominator: str = "1"
    largest: float | None = None
    """The numerator is at most that large in one decision, in its own unit; None: nobody knows."""


METRICS = {
    "click_per_decision": Metric("weight * click", "weight", largest=1.0),
    "conversion_per_decision": Metric("weight * conversion", "weight", largest=1.0),
    "revenue_per_decision": Metric("weight * revenue", "weight"),
    "cost_per_decision": Metric("weight * cost", "weight"),
    "exposure_ratio": Metric("expose::INT", largest=1.0),
    "fallback_ratio": Metric("(fallback_reason IS NOT NULL)::INT", largest=1.0),
    "latency_seconds": Metric("latency_seconds"),
}


def known(name: str) -> str:
    """The name itself, if an experiment file may say it.

    Raises:
        ValueError: there is no such metric.
    """
    if name != GAIN and name not in METRICS:
        raise ValueError(f"metric {name!r} is not known; known: {GAIN}, {', '.join(METRICS)}")
    return name


def known_gain(name: str) -> str:
    """The name itself, if it may be the primary metric: the challenger is better when it has more of it.

    Raises:
        ValueError: it is no gain.
    """
    gains = (GAIN, *(f"{kind}_per_decision" for kind in GAINS))
    if known(name) not in gains:
        raise ValueError(f"metric {name!r} is no gain; the primary metric is one of {', '.join(gains)}")
    return name


def metric_of(name: str, gain: str) -> str:
    """Name of a metric in METRICS; "gain_per_decision" is that of the outcome that counts as gain.

    Raises:
        ValueError: there is no such metric.
    """
    return f"{gain}_per_decision" if known(name) == GAIN else name


def sums() -> str:
    """SQL: the two sums of every metric, as columns `NAME_numerator` and `NAME_denominator`."""
    return ", ".join(
        f"sum({getattr(metric, part)})::DOUBLE AS {name}_{part}"
        for name, metric in METRICS.items()
        for part in ("numerator", "denominator")
    )

"""Defines the metrics that an experiment file may name, and the file's `metrics` section.

    gain_per_decision                     the gain of the data set, an outcome or a weighted sum (`mtorl.log.gain`)
    click_per_decision, NAME_per_decision one outcome: cost, click, conversion, revenue, or another outcome
    gain_per_cost, NAME_per_cost          return on spend: gain or one outcome per currency unit
    cost_per_click, cost_per_NAME         cost of an outcome, and any other NAME_per_NAME
    exposure_ratio, ...                   the metrics in METRICS

A metric is a ratio of two sums over a user's decisions. Both are weighted sums of a few columns, such as those of
DECISION_COLUMNS and "outcome:click". So each column is added up once per user, and all metrics follow by arithmetic.

To add a metric, add a line to METRICS and one to DECISION_COLUMNS. If its name does not read well on a page, also add
a text to `monitoring.plain_words.METRICS`.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from mtorl.experiment import messages
from mtorl.log.dataset import EVENTS, OUTCOMES
from mtorl.log.gain import Gain
from mtorl.runtime.validation import FromList, NoneInWord, StrictModel, Text

GAIN = "gain_per_decision"
COST = "cost_per_decision"

_GAIN, _DECISION, _COST = "gain", "decision", "cost"
_OUTCOME = "outcome:"
_NAME = "[A-Za-z][A-Za-z0-9_]*"
_RATIO = re.compile(f"({_NAME})_per_({_NAME})")
GAINS = f"{_NAME}_per_({_DECISION}|{_COST})"
"""Regular expression of a primary metric's full name. Some matches are not gains: see NO_GAINS."""
NO_GAINS = tuple(f"{what}_per_{per}" for what in (_COST, _DECISION) for per in (_COST, _DECISION))
"""Names that match GAINS but are not gains."""


Terms = tuple[tuple[str, float], ...]
"""A weighted sum of columns."""

DECISIONS, WEIGHT = "decisions", "weight"
DECISION_COLUMNS = {
    DECISIONS: "1",
    WEIGHT: "weight",
    "exposures": "expose::INT",
    "fallbacks": "(fallback_reason IS NOT NULL)::INT",
    "latency": "latency_seconds",
}
"""What one decision adds to each column, as DuckDB SQL on its record (`mtorl.log.records`). `weight` is 1, or the
weight of a decision in a replay."""


class Metric(NamedTuple):
    """Numerator and denominator of a metric."""

    numerator: Terms
    denominator: Terms = ((DECISIONS, 1.0),)
    largest: float | None = None
    """Upper bound of the numerator for one decision, in its own unit; None if unknown."""


METRICS = {
    "exposure_ratio": Metric((("exposures", 1.0),), largest=1.0),
    "fallback_ratio": Metric((("fallbacks", 1.0),), largest=1.0),
    "latency_seconds": Metric((("latency", 1.0),)),
}
"""The metrics that are not sums of outcomes."""
KNOWN = f"{'|'.join(METRICS)}|{_RATIO.pattern}"  # regular expression of a metric's full name


def check_metric(name: str) -> str:
    """Return the name if an experiment file may contain it; else ValueError. `check_outcomes` checks its outcomes."""
    parts = parts_of(name)
    if (name not in METRICS and parts is None) or (parts is not None and parts[0] in (parts[1], _DECISION)):
        usual = ", ".join(f"{kind}_per_decision" for kind in OUTCOMES)
        several = f"{usual} (or another outcome), gain_per_cost, cost_per_click (or other outcomes)"
        raise ValueError(messages.UNKNOWN_METRIC(metric=name, known=f"{GAIN}, {several}, {', '.join(METRICS)}"))
    return name


def check_gain(name: str) -> str:
    """Return the name if it may be the primary metric (a gain, where more is better); else ValueError."""
    if not is_gain(check_metric(name)):
        raise ValueError(messages.NO_GAIN(metric=name))
    return name


def check_outcomes(names: Iterable[str], outcomes: Iterable[str]) -> None:
    """Raise ValueError if a metric needs an outcome that the data set lacks."""
    there = tuple(outcomes)
    for name in names:
        for part in parts_of(name) or ():
            if part not in (_GAIN, _DECISION, *there):
                per_decision = ", ".join(f"{outcome}_per_decision" for outcome in there)
                usable = f"{GAIN}, {per_decision}, ratios of them such as {there[0]}_per_cost, {', '.join(METRICS)}"
                raise ValueError(messages.UNKNOWN_OUTCOME(metric=name, outcome=part, known=usable))


def parts_of(name: str) -> tuple[str, str] | None:
    """Return the numerator and denominator (gain, decision or an outcome); None for the metrics in METRICS."""
    found = _RATIO.fullmatch(name)
    return (found[1], found[2]) if found and name not in METRICS else None


def is_gain(name: str) -> bool:
    """Return whether a metric is the gain, or an outcome other than cost, per decision or per currency unit."""
    return re.fullmatch(GAINS, name) is not None and name not in NO_GAINS


def is_per_decision(name: str) -> bool:
    """Return whether the denominator of a metric is decisions, as for all of METRICS."""
    parts = parts_of(name)
    return parts is None or parts[1] == _DECISION


def gain_of(name: str, gain: Gain) -> Gain:
    """Return the numerator of a metric that is not in METRICS: its outcome, or the gain of the data set."""
    parts = parts_of(name)
    return _summed(parts[0], gain) if parts is not None else gain


def outcomes_of(name: str, gain: Gain) -> tuple[str, ...]:
    """Return the outcomes whose sums a metric needs."""
    return tuple(outcome for part in parts_of(name) or () if part != _DECISION for outcome in _summed(part, gain).names)


def _summed(part: str, gain: Gain) -> Gain:
    return gain if part == _GAIN else replace(Gain.of_spec(part), units=gain.units)


def total_of(primary: str) -> str:
    """Return the primary metric's numerator: the name of an outcome, or "gain"."""
    return (parts_of(primary) or (_GAIN, _DECISION))[0]


def of_primary(primary: str) -> tuple[str, str]:
    """Return two metrics with the primary metric's numerator: per decision, and per cost."""
    return f"{total_of(primary)}_per_{_DECISION}", f"{total_of(primary)}_per_{_COST}"


def unit_of(name: str, gain: Gain) -> str:
    """Return the unit of a metric for people: clicks per decision, EUR per click, seconds, ratio."""
    parts = parts_of(name)
    if parts is None:
        return name.rpartition("_")[2]
    above, below = (gain.unit if part == _GAIN else gain.units.of(part) for part in parts)
    one = {"currency units": "currency unit"}.get(below, below) if parts[1] == _COST else parts[1]
    return f"{above} per {one}"


def metric(name: str, gain: Gain) -> Metric:
    """Return the metric with this name, with `gain` as the meaning of "gain"; ValueError if there is none."""
    parts = parts_of(check_metric(name))
    if parts is None:
        return METRICS[name]
    summed, per = _summed(parts[0], gain), parts[1]
    bounded = set(EVENTS).issuperset(summed.names)
    largest = sum(weight for _, weight in summed.terms) if bounded else None
    below = ((WEIGHT, 1.0),) if per == _DECISION else total(_summed(per, gain))
    return Metric(total(summed), below, largest)


def column(outcome: str) -> str:
    """Return the name of the column with the weighted sum of an outcome; no field of the record has such a name."""
    return f"{_OUTCOME}{outcome}"


def late_column(outcome: str) -> str:
    """Return the name of the column with the weighted sum of an outcome's values that arrived too late to count."""
    return f"late:{outcome}"


def outcome_of(column: str) -> str | None:
    """Return the outcome whose weighted sum a column is; None for other columns."""
    return column.removeprefix(_OUTCOME) if column.startswith(_OUTCOME) else None


def total(gain: Gain) -> Terms:
    """Return the gain as a weighted sum of columns."""
    return tuple((column(name), weight) for name, weight in gain.terms)


Direction = Literal["up", "down"]
MetricName = Annotated[Text, AfterValidator(check_metric)]


class Guardrail(StrictModel):
    """A metric that must not get worse by more than a margin."""

    name: MetricName
    """Name of the metric, as in `secondary`."""
    direction: Direction
    """Desired direction of the metric: up = more is better, down = less is better."""
    margin: float = Field(ge=0)
    """Accepted harm, in the metric's own unit."""


class Metrics(StrictModel):
    """Metrics of an experiment; the primary metric decides."""

    primary: Annotated[Text, AfterValidator(check_gain)]
    """Metric that decides the verdict: gain_per_decision, an outcome such as click_per_decision, or either per cost."""
    secondary: Annotated[tuple[MetricName, ...], FromList] = ()
    """Metrics that are reported but never decide."""
    guardrails: Annotated[tuple[Guardrail, ...], FromList] = ()
    """Metrics that must not get worse by more than a margin. A challenger that breaches a guardrail is rolled back."""
    outcome_hours: Annotated[Annotated[float, Field(gt=0, le=8760)] | None, NoneInWord()] = 24.0
    """Hours after a decision in which its outcomes must happen and be reported. Later outcomes do not count, and a
    decision counts only after these hours. none: all known outcomes count, if no more outcomes will arrive."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all metrics without duplicates, the primary one first."""
        return tuple(dict.fromkeys((self.primary, *self.secondary, *(guardrail.name for guardrail in self.guardrails))))

"""Defines the metrics that an experiment file may use; each is a ratio of two sums over decisions.

    gain_per_decision           the gain of the data set
    click_per_decision          one outcome, such as cost, click, conversion or revenue
    gain_per_cost               return on spend: gain or one outcome per currency unit
    cost_per_click              cost of an outcome, or any other NAME_per_NAME
    exposure_ratio              a metric that is not computed from outcomes (METRICS)

`mtorl.log.gain` defines the gain.
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
"""Regular expression for the full names of possible primary metrics. It also matches the names in NO_GAINS, which are
not allowed."""
NO_GAINS = tuple(f"{what}_per_{per}" for what in (_COST, _DECISION) for per in (_COST, _DECISION))
"""Names that match GAINS but can't be a primary metric, because they contain neither a gain nor an outcome."""


Terms = tuple[tuple[str, float], ...]
"""A weighted sum of columns: pairs of a column's name and its weight."""

DECISIONS, WEIGHT = "decisions", "weight"
DECISION_COLUMNS = {
    DECISIONS: "1",
    WEIGHT: "weight",
    "exposures": "expose::INT",
    "fallbacks": "(fallback_reason IS NOT NULL)::INT",
    "latency": "latency_seconds",
}
"""DuckDB SQL for the value of each column for one decision, computed from the decision's record (`mtorl.log.records`).
The column `weight` is 1 or, in a replay, the weight of the decision."""


class Metric(NamedTuple):
    """Numerator and denominator of a metric."""

    numerator: Terms
    denominator: Terms = ((DECISIONS, 1.0),)
    largest: float | None = None
    """Largest possible value of the numerator for one decision; None if unknown."""


METRICS = {
    "exposure_ratio": Metric((("exposures", 1.0),), largest=1.0),
    "fallback_ratio": Metric((("fallbacks", 1.0),), largest=1.0),
    "latency_seconds": Metric((("latency", 1.0),)),
}
"""The metrics that are not computed from outcomes, by name."""
KNOWN = f"{'|'.join(METRICS)}|{_RATIO.pattern}"  # regular expression of a metric's full name


def check_metric(name: str) -> str:
    """Return `name` if it is a possible name of a metric.

    Raises:
        ValueError: there is no such metric.
    """
    parts = parts_of(name)
    if (name not in METRICS and parts is None) or (parts is not None and parts[0] in (parts[1], _DECISION)):
        usual = ", ".join(f"{kind}_per_decision" for kind in OUTCOMES)
        several = f"{usual} (or another outcome), gain_per_cost, cost_per_click (or other outcomes)"
        raise ValueError(messages.UNKNOWN_METRIC(metric=name, known=f"{GAIN}, {several}, {', '.join(METRICS)}"))
    return name


def check_gain(name: str) -> str:
    """Return `name` if it can be the primary metric.

    Raises:
        ValueError: there is no such metric, or the metric is not a gain.
    """
    if not is_gain(check_metric(name)):
        raise ValueError(messages.NO_GAIN(metric=name))
    return name


def check_outcomes(names: Iterable[str], outcomes: Iterable[str]) -> None:
    """Check that the data set has every outcome that the metrics use.

    Raises:
        ValueError: an outcome is missing; the message names the metric.
    """
    there = tuple(outcomes)
    for name in names:
        for part in parts_of(name) or ():
            if part not in (_GAIN, _DECISION, *there):
                per_decision = ", ".join(f"{outcome}_per_decision" for outcome in there)
                usable = f"{GAIN}, {per_decision}, ratios of them such as {there[0]}_per_cost, {', '.join(METRICS)}"
                raise ValueError(messages.UNKNOWN_OUTCOME(metric=name, outcome=part, known=usable))


def parts_of(name: str) -> tuple[str, str] | None:
    """Split the name of a ratio, such as cost_per_click, into its numerator and its denominator.

    Returns None if the name is not a ratio, or is in METRICS.
    """
    found = _RATIO.fullmatch(name)
    return (found[1], found[2]) if found and name not in METRICS else None


def is_gain(name: str) -> bool:
    """Return whether more of a metric is better: a gain or outcome per decision or cost."""
    return re.fullmatch(GAINS, name) is not None and name not in NO_GAINS


def is_per_decision(name: str) -> bool:
    """Return whether a metric is a mean over decisions."""
    parts = parts_of(name)
    return parts is None or parts[1] == _DECISION


def gain_of(name: str, gain: Gain) -> Gain:
    """Return the numerator of a metric as a weighted sum of outcomes."""
    parts = parts_of(name)
    return _summed(parts[0], gain) if parts is not None else gain


def outcomes_of(name: str, gain: Gain) -> tuple[str, ...]:
    """Return the outcomes that must be added up to compute a metric."""
    return tuple(outcome for part in parts_of(name) or () if part != _DECISION for outcome in _summed(part, gain).names)


def _summed(part: str, gain: Gain) -> Gain:
    return gain if part == _GAIN else replace(Gain.of_spec(part), units=gain.units)


def total_of(primary: str) -> str:
    """Return the primary metric's numerator, which is an outcome or "gain"."""
    return (parts_of(primary) or (_GAIN, _DECISION))[0]


def of_primary(primary: str) -> tuple[str, str]:
    """Return the metrics per decision and per cost with the same numerator as the primary metric."""
    return f"{total_of(primary)}_per_{_DECISION}", f"{total_of(primary)}_per_{_COST}"


def unit_of(name: str, gain: Gain) -> str:
    """Return the unit of a metric for display, such as "clicks per decision" or "EUR per click"."""
    parts = parts_of(name)
    if parts is None:
        return name.rpartition("_")[2]
    above, below = (gain.unit if part == _GAIN else gain.units.of(part) for part in parts)
    one = {"currency units": "currency unit"}.get(below, below) if parts[1] == _COST else parts[1]
    return f"{above} per {one}"


def metric(name: str, gain: Gain) -> Metric:
    """Return the numerator and denominator of a metric, as weighted sums of columns.

    Raises:
        ValueError: there is no such metric.
    """
    parts = parts_of(check_metric(name))
    if parts is None:
        return METRICS[name]
    summed, per = _summed(parts[0], gain), parts[1]
    bounded = set(EVENTS).issuperset(summed.names)
    largest = sum(weight for _, weight in summed.terms) if bounded else None
    below = ((WEIGHT, 1.0),) if per == _DECISION else total(_summed(per, gain))
    return Metric(total(summed), below, largest)


def column(outcome: str) -> str:
    """Return the name of the column with the weighted sum of an outcome."""
    return f"{_OUTCOME}{outcome}"


def late_column(outcome: str) -> str:
    """Return the name of the column that adds up an outcome's values that arrived too late."""
    return f"late:{outcome}"


def outcome_of(column: str) -> str | None:
    """Return the outcome of a column from `column`, or None for any other column."""
    return column.removeprefix(_OUTCOME) if column.startswith(_OUTCOME) else None


def total(gain: Gain) -> Terms:
    """Return the gain of the data set as a weighted sum of columns."""
    return tuple((column(name), weight) for name, weight in gain.terms)


Direction = Literal["up", "down"]
MetricName = Annotated[Text, AfterValidator(check_metric)]


class Guardrail(StrictModel):
    """A metric that must not get worse by more than a margin."""

    name: MetricName
    """Name of the metric, in the same form as in `secondary`."""
    direction: Direction
    """Desired direction of the metric. up: more is better. down: less is better."""
    margin: float = Field(ge=0)
    """How much worse the challenger may be than the incumbent, in the unit of the metric."""


class Metrics(StrictModel):
    """The metrics of an experiment. The primary metric decides which policy is better."""

    primary: Annotated[Text, AfterValidator(check_gain)]
    """The metric that decides the verdict: gain_per_decision, an outcome per decision such as click_per_decision, or
    gain or an outcome per cost."""
    secondary: Annotated[tuple[MetricName, ...], FromList] = ()
    """Metrics that are reported, but do not affect the verdict."""
    guardrails: Annotated[tuple[Guardrail, ...], FromList] = ()
    """Metrics that must not get worse by more than a margin. A challenger that clearly exceeds a margin is rolled back.
    """
    outcome_hours: Annotated[Annotated[float, Field(gt=0, le=8760)] | None, NoneInWord()] = 24.0
    """Outcomes count if they happen and are reported within this many hours after their decision, and a decision counts
    once these hours have passed. none: every decision and every known outcome counts; use it only if no more outcomes
    will arrive."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all metrics without duplicates, the primary metric first."""
        return tuple(dict.fromkeys((self.primary, *self.secondary, *(guardrail.name for guardrail in self.guardrails))))

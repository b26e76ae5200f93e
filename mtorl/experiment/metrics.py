"""The metrics that an experiment file may name, each a ratio of two sums over a user's decisions, and its section.

    gain_per_decision                     the gain of the data set, an outcome or a weighted sum (`mtorl.log.gain`)
    click_per_decision, NAME_per_decision sum of one outcome: cost, click, conversion, revenue, or a further one
    gain_per_cost, NAME_per_cost          return on spend: gain, or one outcome, a currency unit
    cost_per_click, cost_per_NAME         what an outcome costs, and any other NAME_per_NAME
    exposure_ratio, ...                   those of METRICS

Both sums are weighted sums of a few columns that each decision adds to: DECISION_COLUMNS, and "outcome:click" and the
like. So a user's columns are added up once, and every metric of them is arithmetic.

A new metric is one line in METRICS, one in DECISION_COLUMNS, and its name in words in `monitoring.plain_words.METRICS`
if the name itself does not read well.
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
_NAME = "[A-Za-z][A-Za-z0-9_]*"
_RATIO = re.compile(f"({_NAME})_per_({_NAME})")
GAINS = f"{_NAME}_per_({_DECISION}|{_COST})"
"""Regular expression of a primary metric's whole name. Not all that match are known: see NO_GAINS."""
NO_GAINS = tuple(f"{what}_per_{per}" for what in (_COST, _DECISION) for per in (_COST, _DECISION))
"""Names that match GAINS and are no gain."""


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
"""Columns with what one decision adds to each, as DuckDB SQL of its record (`mtorl.log.records`) and its weight: 1, or
that of a replay."""


class Metric(NamedTuple):
    """Numerator and denominator of a metric."""

    numerator: Terms
    denominator: Terms = ((DECISIONS, 1.0),)
    largest: float | None = None
    """The numerator is at most that large in one decision, in its own unit; None: not known."""


METRICS = {
    "exposure_ratio": Metric((("exposures", 1.0),), largest=1.0),
    "fallback_ratio": Metric((("fallbacks", 1.0),), largest=1.0),
    "latency_seconds": Metric((("latency", 1.0),)),
}
"""The metrics that are no sum of outcomes."""
KNOWN = f"{'|'.join(METRICS)}|{_RATIO.pattern}"  # regular expression of a metric's whole name


def check_metric(name: str) -> str:
    """The name itself, if an experiment file may have it; else ValueError. For outcomes: `check_outcomes`."""
    parts = parts_of(name)
    if (name not in METRICS and parts is None) or (parts is not None and parts[0] in (parts[1], _DECISION)):
        usual = ", ".join(f"{kind}_per_decision" for kind in OUTCOMES)
        several = f"{usual} (or another outcome), gain_per_cost, cost_per_click (or other outcomes)"
        raise ValueError(messages.UNKNOWN_METRIC(metric=name, known=f"{GAIN}, {several}, {', '.join(METRICS)}"))
    return name


def check_gain(name: str) -> str:
    """The name itself, if it may be the primary metric, of which more is better; else ValueError."""
    if not is_gain(check_metric(name)):
        raise ValueError(messages.NO_GAIN(metric=name))
    return name


def check_outcomes(names: Iterable[str], outcomes: Iterable[str]) -> None:
    """Raise ValueError unless a data set has the outcomes of these metrics."""
    there = tuple(outcomes)
    for name in names:
        for part in parts_of(name) or ():
            if part not in (_GAIN, _DECISION, *there):
                per_decision = ", ".join(f"{outcome}_per_decision" for outcome in there)
                usable = f"{GAIN}, {per_decision}, ratios of them such as {there[0]}_per_cost, {', '.join(METRICS)}"
                raise ValueError(messages.UNKNOWN_OUTCOME(metric=name, outcome=part, known=usable))


def parts_of(name: str) -> tuple[str, str] | None:
    """The sums that a metric divides: gain, decision or an outcome each; None if it is one of METRICS."""
    found = _RATIO.fullmatch(name)
    return (found[1], found[2]) if found and name not in METRICS else None


def is_gain(name: str) -> bool:
    """Whether a metric is the gain, or any outcome of which more is better, per decision or currency unit."""
    return re.fullmatch(GAINS, name) is not None and name not in NO_GAINS


def is_per_decision(name: str) -> bool:
    """Whether a metric divides by decisions, as those of METRICS do."""
    parts = parts_of(name)
    return parts is None or parts[1] == _DECISION


def gain_of(name: str, gain: Gain) -> Gain:
    """Numerator of a metric that is none of METRICS: its outcome, or the gain of the data set."""
    parts = parts_of(name)
    return _summed(parts[0], gain) if parts is not None else gain


def outcomes_of(name: str, gain: Gain) -> tuple[str, ...]:
    """The outcomes whose sums a metric needs."""
    return tuple(outcome for part in parts_of(name) or () if part != _DECISION for outcome in _summed(part, gain).names)


def _summed(part: str, gain: Gain) -> Gain:
    return gain if part == _GAIN else replace(Gain.of_spec(part), units=gain.units)


def total_of(primary: str) -> str:
    """Numerator of the primary metric: gain, or an outcome."""
    return (parts_of(primary) or (_GAIN, _DECISION))[0]


def of_primary(primary: str) -> tuple[str, str]:
    """The metrics of the primary metric's numerator: per decision, and per cost."""
    return f"{total_of(primary)}_per_{_DECISION}", f"{total_of(primary)}_per_{_COST}"


def unit_of(name: str, gain: Gain) -> str:
    """Unit of a metric, for people: clicks per decision, EUR per click, seconds, ratio."""
    parts = parts_of(name)
    if parts is None:
        return name.rpartition("_")[2]
    above, below = (gain.unit if part == _GAIN else gain.units.of(part) for part in parts)
    one = {"currency units": "currency unit"}.get(below, below) if parts[1] == _COST else parts[1]
    return f"{above} per {one}"


def metric(name: str, gain: Gain) -> Metric:
    """The metric of a name, where "gain" means this; ValueError if there is none."""
    parts = parts_of(check_metric(name))
    if parts is None:
        return METRICS[name]
    summed, per = _summed(parts[0], gain), parts[1]
    bounded = set(EVENTS).issuperset(summed.names)
    largest = sum(weight for _, weight in summed.terms) if bounded else None
    below = ((WEIGHT, 1.0),) if per == _DECISION else total(_summed(per, gain))
    return Metric(total(summed), below, largest)


def column(outcome: str) -> str:
    """The column with the weighted sum of an outcome; no field of the record has this name."""
    return f"outcome:{outcome}"


def total(gain: Gain) -> Terms:
    """The gain as a weighted sum of columns."""
    return tuple((column(name), weight) for name, weight in gain.terms)


Direction = Literal["up", "down"]
MetricName = Annotated[Text, AfterValidator(check_metric)]


class Guardrail(StrictModel):
    """A metric that must not get worse by more than a margin."""

    name: MetricName
    """Of the metric, as `secondary` names them."""
    direction: Direction
    """Where the metric should go: up = more is better, down = less is better."""
    margin: float = Field(ge=0)
    """Harm that is accepted, in the metric's own unit."""


class Metrics(StrictModel):
    """Metrics of an experiment; the primary metric decides."""

    primary: Annotated[Text, AfterValidator(check_gain)]
    """The verdict is about this one: gain_per_decision, an outcome such as click_per_decision, or either per cost."""
    secondary: Annotated[tuple[MetricName, ...], FromList] = ()
    """Reported beside it; they never decide."""
    guardrails: Annotated[tuple[Guardrail, ...], FromList] = ()
    """What must not get worse by more than a margin: a challenger that breaches one is rolled back."""
    outcome_hours: Annotated[Annotated[float, Field(gt=0, le=8760)] | None, NoneInWord()] = 24.0
    """Hours after a decision in which its outcomes happen, and are reported: later ones do not count, and a decision
    counts once they are over. none: whatever is known counts, which is right when no more outcomes will come."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all metrics without repetition, the primary one first."""
        return tuple(dict.fromkeys((self.primary, *self.secondary, *(guardrail.name for guardrail in self.guardrails))))

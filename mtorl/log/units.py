"""What amounts of gain and money are counted in, for people, as far as a data set's description says.

gain_unit(spec)         # clicks; EUR; s of seconds_viewed; 0.1 x click + revenue
money_unit(spec)        # EUR
"""

from __future__ import annotations

from mtorl.log.dataset import DatasetSpec


def money_unit(spec: DatasetSpec) -> str:
    """The unit of cost."""
    return "currency units" if spec.currency == DatasetSpec.model_fields["currency"].default else spec.currency


def gain_unit(spec: DatasetSpec) -> str:
    """The unit of gain; of a weighted sum, whose terms may differ in theirs, the sum."""
    terms = spec.reward.gain.terms
    if len(terms) == 1 and terms[0][1] == 1.0:
        return _unit_of(spec, terms[0][0])
    return " + ".join(name if weight == 1.0 else f"{weight:g} x {name}" for name, weight in terms)


def _unit_of(spec: DatasetSpec, outcome: str) -> str:
    if outcome in ("click", "conversion"):
        return f"{outcome}s"
    if outcome == "revenue":  # "value of the purchase, EUR" is money, "play_time_ms (not money)" is something else
        label = spec.outcome_labels.get("revenue", spec.currency)
        return money_unit(spec) if spec.currency in label else label
    unit = next(column.unit for column in spec.outcomes if column.name == outcome)
    return f"{unit} of {outcome}" if unit else outcome

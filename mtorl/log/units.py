"""Units of gain and money, for people, as far as a data set's description says."""

from __future__ import annotations

from dataclasses import replace

from mtorl.log.dataset import DatasetSpec
from mtorl.log.gain import Gain, Units


def counted_gain(spec: DatasetSpec) -> Gain:
    """The gain of a data set, with its units."""
    unknown = spec.currency == DatasetSpec.model_fields["currency"].default
    money = Units().money if unknown else spec.currency
    label = spec.outcome_labels.get("revenue", spec.currency)
    # "value of the purchase, EUR" is money, "play_time_ms (not money)" is something else
    outcomes = {"revenue": money if spec.currency in label else label}
    outcomes |= {column.name: f"{column.unit} of {column.name}" for column in spec.outcomes if column.unit}
    return replace(spec.reward.gain, units=Units(money, tuple(outcomes.items())))

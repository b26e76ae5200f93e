"""Defines a policy as a list of rows in an experiment file. The first row that matches a request decides.

    policy:                                                      # of an arm
    - {when: {device: phone, age: [18-24, 25-29]}, channel: video}
    - {when: {device: phone}, channel: search}
    - {when: {placement: null}, channel: search, expose: false}  # null: the value is unknown
    - {channel: display}                                         # all other requests

A row matches if its condition is true and its channel is a candidate of the request. Conditions use columns of the
context and of the user.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BeforeValidator, Field

from mtorl.experiment import messages
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.message import prefixed
from mtorl.runtime.validation import FromList, StrictModel, Text, short


def _values(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Row(StrictModel):
    """One row of a rule: a condition on the request, and the decision for requests that satisfy it."""

    when: dict[Text, Annotated[tuple[str | float | None, ...], BeforeValidator(_values)]] = Field(default_factory=dict)
    """Condition: for each named column, the required value or a list of allowed values. A row without `when` matches
    every request."""
    channel: Text
    """The channel to choose if the row matches."""
    expose: bool = True
    """Whether to show the ad if the row matches."""


def _ends(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    if not rows or rows[-1].when:
        raise ValueError(messages.LAST_ROW())
    if any(not row.when for row in rows[:-1]):
        raise ValueError(messages.ROW_NEVER_USED())
    return rows


Rule = Annotated[tuple[Row, ...], FromList, AfterValidator(_ends)]


def first_fit(rule: Sequence[Row], values: Mapping[str, Any], candidates: Collection[str]) -> Row | None:
    """Return the first row whose condition is true and whose channel is a candidate, or None."""
    for row in rule:
        if row.channel in candidates and all(values.get(name) in allowed for name, allowed in row.when.items()):
            return row
    return None


def digest(rule: Sequence[Row]) -> str:
    """Return the SHA-256 of a rule."""
    return hashlib.sha256(orjson.dumps([row.model_dump(mode="json") for row in rule])).hexdigest()


def check(rule: Sequence[Row], spec: DatasetSpec, where: str = "policy") -> None:
    """Check that the data set has a rule's channels and columns, and that the rule's values have the right type.

    Args:
        where: Place of the rule in the experiment file, for error messages.

    Raises:
        ValueError: a channel or column is unknown, or a value has the wrong type.
    """
    kinds = {column.name: column.kind for column in (*spec.context, *spec.static)}
    for i, row in enumerate(rule):
        if row.channel not in spec.channels:
            fault = messages.UNKNOWN_CHANNEL(channel=row.channel, known=", ".join(spec.channels))
            raise ValueError(prefixed(f"{where}[{i}].channel", fault))
        for name, allowed in row.when.items():
            if name not in kinds:
                fault = messages.UNKNOWN_COLUMN(column=name, known=", ".join(kinds))
                raise ValueError(prefixed(f"{where}[{i}].when", fault))
            wrong = [v for v in allowed if v is not None and isinstance(v, str) != (kinds[name] == "categorical")]
            if wrong:
                fault = messages.COLUMN_KIND(kind=kinds[name], value=short(wrong[0]))
                raise ValueError(prefixed(f"{where}[{i}].when.{name}", fault))

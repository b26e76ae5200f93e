"""The metrics section of an experiment file: the metric that decides, and those that are watched as well."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mtorl.experiment.metrics import known, known_gain
from mtorl.runtime.validation import FromList, NoneInWord, StrictModel, Text

Direction = Literal["up", "down"]
MetricName = Annotated[Text, AfterValidator(known)]


class Guardrail(StrictModel):
    """A metric that must not get worse by more than a margin."""

    name: MetricName
    """Of the metric, as `secondary` names them."""
    direction: Direction
    """Where the metric should go: up = more is better, down = less is better."""
    margin: float = Field(ge=0)
    """Harm that is accepted, in the metric's own unit."""


class Metrics(StrictModel):
    """What is measured; the primary metric decides."""

    primary: Annotated[Text, AfterValidator(known_gain)]
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
        """All that are measured, each once; the primary one first."""
        return tuple(dict.fromkeys((self.primary, *self.secondary, *(guardrail.name for guardrail in self.guardrails))))

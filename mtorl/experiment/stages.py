"""Defines the stages of an experiment, and the ramp, which is the list of stages that the experiment goes through.

    ramp:
      stages:
      - {stage: shadow, hours: 24}
      - {stage: 5%, hours: 48, users: 500}

`mtorl.experiment.stage_machine` decides when an experiment moves to its next stage.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from mtorl.experiment import messages
from mtorl.runtime.validation import FromList, StrictModel

Stage = Literal["shadow", "1%", "5%", "25%", "50%"]

CHALLENGER_SHARE: Mapping[Stage, float] = {"shadow": 0.0, "1%": 0.01, "5%": 0.05, "25%": 0.25, "50%": 0.5}
"""Share of the experiment's users, by stage, that get one of the challengers."""


class RampStage(StrictModel):
    """One stage of a ramp, and the requirements for leaving it."""

    stage: Stage
    """Name of the stage: shadow, 1%, 5%, 25% or 50%. The number is the share of users that get a challenger."""
    hours: float = Field(default=24.0, ge=0)
    """Minimum duration of the stage in hours. It is counted from the start of the stage, or from the last time the kill
    switch was turned off."""
    users: int = Field(default=100, ge=0)
    """Minimum number of users per arm in this stage's verdict. In the stage shadow: the minimum number of users for
    whose requests each challenger was asked."""


class Ramp(StrictModel):
    """The stages that an experiment moves through automatically."""

    stages: Annotated[tuple[RampStage, ...], FromList, Field(min_length=1)]
    """The stages in order. Each stage must have a larger share than the one before."""
    fallback_ratio: float = Field(default=0.01, ge=0, le=1)
    """Requirement for the next stage: a challenger's share of fallback decisions exceeds the incumbent's by at most
    this. In the stage shadow: at most this share of a challenger's answers may fail."""
    latency_seconds: float = Field(default=0.02, gt=0)
    """Requirement for the next stage: a challenger's 99th percentile of latency exceeds the incumbent's by at most this
    number of seconds."""
    promote: bool = False
    """true: promote a winning challenger automatically. false: a person promotes it."""

    @field_validator("stages")
    @classmethod
    def _stages_grow(cls, stages: tuple[RampStage, ...]) -> tuple[RampStage, ...]:
        shares = [CHALLENGER_SHARE[step.stage] for step in stages]
        if any(after <= before for before, after in pairwise(shares)):
            raise ValueError(messages.STAGES_GROW(stages=", ".join(step.stage for step in stages)))
        return stages


def stages_before(ramp: Ramp, stage: str | None) -> list[Stage]:
    """Return the stages of the ramp in which fewer users get a challenger than in `stage`."""
    share = next((share for name, share in CHALLENGER_SHARE.items() if name == stage), 0.0)
    return [step.stage for step in ramp.stages if CHALLENGER_SHARE[step.stage] < share]

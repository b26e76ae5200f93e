"""Defines the stages of an experiment, and the ramp, which is the list of stages that the experiment goes through.

At each stage, a certain share of the experiment's users gets a challenger.

    ramp:                                        # the ramp of an experiment file
      stages:
      - {stage: shadow, hours: 24}
      - {stage: 5%, hours: 48, users: 500}       # for at least 48 hours, and until each arm has 500 users
      - {stage: 50%, hours: 336}
      fallback_ratio: 0.01                       # how much more often than the incumbent a challenger may fall back

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
"""Share of the experiment's users that get a challenger (any of them) at each stage."""


class RampStage(StrictModel):
    """One stage of a ramp, and the requirements for leaving it."""

    stage: Stage
    """shadow, 1%, 5%, 25% or 50%."""
    hours: float = Field(default=24.0, ge=0)
    """Minimum duration, counted from the start of the stage or from the last time the experiment was switched on."""
    users: int = Field(default=100, ge=0)
    """Minimum number of users per arm that count in this stage's verdict. In the shadow stage: the minimum number of
    users for whom each challenger was queried."""


class Ramp(StrictModel):
    """The stages that an experiment moves through automatically."""

    stages: Annotated[tuple[RampStage, ...], FromList, Field(min_length=1)]
    """Stages in order; each must be larger than the previous one."""
    fallback_ratio: float = Field(default=0.01, ge=0, le=1)
    """Largest allowed excess of a challenger's fallback ratio over the incumbent's. In the shadow stage: the largest
    share of a challenger's answers that may fail."""
    latency_seconds: float = Field(default=0.02, gt=0)
    """Largest allowed excess of a challenger's 99th-percentile latency over the incumbent's, seconds."""
    promote: bool = False
    """true: promote a winning challenger automatically. false: wait for a person."""

    @field_validator("stages")
    @classmethod
    def _stages_grow(cls, stages: tuple[RampStage, ...]) -> tuple[RampStage, ...]:
        shares = [CHALLENGER_SHARE[step.stage] for step in stages]
        if any(after <= before for before, after in pairwise(shares)):
            raise ValueError(messages.STAGES_GROW(stages=", ".join(step.stage for step in stages)))
        return stages


def stages_before(ramp: Ramp, stage: str | None) -> list[Stage]:
    """Return the stages of the ramp that are smaller than `stage`.

    A move from the draft directly to `stage` skips them. The list is empty if `stage` is unknown.
    """
    share = next((share for name, share in CHALLENGER_SHARE.items() if name == stage), 0.0)
    return [step.stage for step in ramp.stages if CHALLENGER_SHARE[step.stage] < share]

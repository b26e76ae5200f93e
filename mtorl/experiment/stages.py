"""The stages of an experiment, each a share of its users that leaves the incumbent, and the ramp through them.

    ramp:                                        # of an experiment file
      stages:
      - {stage: shadow, hours: 24}
      - {stage: 5%, hours: 48, users: 500}       # at least that long, and that many users in each arm
      - {stage: 50%, hours: 336}
      fallback_ratio: 0.01                       # a challenger may fall back that much more often, and no more

Moves from one to the next: `mtorl.experiment.stage_machine`.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from mtorl.experiment import messages
from mtorl.runtime.validation import FromList, StrictModel

Stage = Literal["shadow", "1%", "5%", "25%", "50%"]

CHALLENGER_SHARE: Mapping[Stage, float] = {"shadow": 0.0, "1%": 0.01, "5%": 0.05, "25%": 0.25, "50%": 0.5}
"""Of the experiment's users, who get any challenger."""


class RampStage(StrictModel):
    """One stage of a ramp, and what it takes to leave it for the next one."""

    stage: Stage
    """shadow, 1%, 5%, 25% or 50%."""
    hours: float = Field(default=24.0, ge=0)
    """It lasts at least that long, from its start, or since it was switched on last."""
    users: int = Field(default=100, ge=0)
    """Each arm has at least that many users of this stage who count in the verdict; in the shadow, each challenger was
    asked for at least that many."""


class Ramp(StrictModel):
    """The stages that an experiment goes through by itself."""

    stages: Annotated[tuple[RampStage, ...], FromList, Field(min_length=1)]
    """In their order, each larger than the one before."""
    fallback_ratio: float = Field(default=0.01, ge=0, le=1)
    """By how much a challenger's share of default actions may be above the incumbent's; in the shadow, that of its
    faults may be above zero."""
    latency_seconds: float = Field(default=0.02, gt=0)
    """By how much its decisions may take longer than the incumbent's, at the 99th percentile."""
    promote: bool = False
    """Whether a challenger that wins is promoted without a person."""

    @field_validator("stages")
    @classmethod
    def _stages_grow(cls, stages: tuple[RampStage, ...]) -> tuple[RampStage, ...]:
        shares = [CHALLENGER_SHARE[step.stage] for step in stages]
        if any(after <= before for before, after in pairwise(shares)):
            raise ValueError(messages.STAGES_GROW(stages=", ".join(step.stage for step in stages)))
        return stages


def stages_before(ramp: Ramp, stage: str | None) -> list[Stage]:
    """Stages of a ramp before one, which a move there from the draft leaves out; none before an unknown one."""
    share = next((share for name, share in CHALLENGER_SHARE.items() if name == stage), 0.0)
    return [step.stage for step in ramp.stages if CHALLENGER_SHARE[step.stage] < share]

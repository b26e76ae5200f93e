"""Injects faults on request, to test alerts and train people, if the setting `drills` is true.

    POST   /v1/drills   {"stage": "model", "fault": "slow", "seconds": 0.2, "share": 0.5, "for_seconds": 60}
    GET    /v1/drills   lists the active faults
    DELETE /v1/drills   ends all faults

An injected delay counts toward the time limit of the stage.
"""

import random
from time import monotonic, sleep
from typing import Annotated, Any, Literal

from pydantic import Field

from mtorl.runtime.validation import StrictModel
from serving.router.ops.metrics import Stage


class DrillFault(RuntimeError):
    """The error that a drill raises in a stage."""


class Drill(StrictModel):
    """A fault that is injected on purpose into a stage of decisions, to test how the router handles it."""

    stage: Stage
    fault: Literal["slow", "error"]
    """slow: the stage starts after a delay of `seconds`. error: the stage fails after `seconds`."""
    seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the stage's calls that get the fault."""
    for_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """Time after which the injection ends, in seconds."""


class Drills:
    """The active injected faults."""

    def __init__(self) -> None:
        self._ends: dict[Drill, float] = {}  # fault -> when it ends; replaced as a whole, because threads read it

    def start(self, drill: Drill) -> None:
        """Start a fault."""
        self._ends = {**self._active(), drill: monotonic() + drill.for_seconds}

    def stop(self) -> None:
        """End all faults."""
        self._ends = {}

    def in_force(self) -> list[dict[str, Any]]:
        """Return the active faults, and the seconds until each ends."""
        now = monotonic()
        return [{**drill.model_dump(), "seconds_left": round(end - now, 1)} for drill, end in self._active().items()]

    def inject(self, stage: Stage, seconds: float) -> None:
        """Apply the active faults to a stage with a time limit; may raise DrillFault or TimeoutError."""
        for drill in self._active():
            if drill.stage != stage or random.random() >= drill.share:
                continue
            sleep(min(drill.seconds, seconds))
            if drill.seconds >= seconds:
                raise TimeoutError("delayed by a drill")
            if drill.fault == "error":
                raise DrillFault("injected by a drill")

    def _active(self) -> dict[Drill, float]:
        now = monotonic()
        return {drill: end for drill, end in self._ends.items() if end > now}

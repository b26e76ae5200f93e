"""Faults on purpose, so that people see what the router, its alerts and they themselves do about one.

    POST   /v1/drills   {"stage": "model", "fault": "slow", "seconds": 0.2, "share": 0.5, "for_seconds": 60}
    GET    /v1/drills   the faults in force
    DELETE /v1/drills   ends all of them

Only with `drills: true` in the settings. A fault strikes inside a stage's own time limit, as the real one would, and
ends by itself: nobody has to remember it.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import asdict, dataclass
from typing import Any, get_args

from serving.router.flow.requests import BadRequest
from serving.router.ops.metrics import Stage

_FAULTS = ("slow", "error")
_LONGEST = 3600.0  # seconds that a fault may be in force


class DrillFault(RuntimeError):
    """The error of a fault on purpose."""


@dataclass(frozen=True)
class Drill:
    """A fault of a stage."""

    stage: Stage
    fault: str  # slow: `seconds` late; error: an exception
    seconds: float = 0.0
    share: float = 1.0  # of the calls that are struck
    for_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, known in (("stage", get_args(Stage)), ("fault", _FAULTS)):
            if getattr(self, name) not in known:
                raise BadRequest(f"{name}: {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name, high in (("seconds", 60.0), ("share", 1.0), ("for_seconds", _LONGEST)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
                raise BadRequest(f"{name}: expected a number between 0 and {high:g}, got {value!r}")


class Drills:
    """The faults in force."""

    def __init__(self) -> None:
        self._until: dict[Drill, float] = {}

    def start(self, body: Any) -> None:
        """Start a fault, from a request's body."""
        known = Drill.__dataclass_fields__
        if not isinstance(body, dict) or not {"stage", "fault"} <= set(body) <= set(known):
            raise BadRequest(f"expected an object with stage and fault, and perhaps more of: {', '.join(known)}")
        drill = Drill(**body)
        self._until[drill] = time.monotonic() + drill.for_seconds

    def stop(self) -> None:
        """End all faults."""
        self._until.clear()

    def in_force(self) -> list[dict[str, Any]]:
        """The faults and how long they will last."""
        self._forget()
        now = time.monotonic()
        return [{**asdict(drill), "seconds_left": round(until - now, 1)} for drill, until in self._until.items()]

    async def inject(self, stage: Stage) -> None:
        """Be a stage that has the faults in force."""
        if not self._until:
            return
        self._forget()
        for drill in [drill for drill in self._until if drill.stage == stage and random.random() < drill.share]:
            await asyncio.sleep(drill.seconds)
            if drill.fault == "error":
                raise DrillFault("a drill")

    def _forget(self) -> None:
        now = time.monotonic()
        self._until = {drill: until for drill, until in self._until.items() if until > now}

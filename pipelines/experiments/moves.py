"""Moves that a person asks for, by a command on a laptop or in an object on a cluster.

make_move(store, MoveRequest(to="promoted", reason="it won"), time.time(), lambda: known)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import model_validator

from monitoring.experiments.look import Known, unsupported
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import IllegalEvent
from mtorl.experiment.stage_machine import STAGES
from mtorl.runtime.validation import StrictModel, Text
from pipelines.experiments.controller import ExperimentStore, act, check_promotion


class MoveRequest(StrictModel):
    """A move that a person asks for. It is looked at once; to ask for the same again, give another reason."""

    to: Literal["shadow", "1%", "5%", "25%", "50%", "promoted", "stopped", "rolled back"]
    """Where to: a stage, from a draft the first one too; or the end."""
    challenger: Text | None = None
    """Who is promoted; by default, the only one."""
    reason: Text
    """Why, for the history."""
    force: bool = False
    """Of a promotion: also if no decision of the challenger is in the log, or the log can't be read."""

    @model_validator(mode="after")
    def _force_is_of_this_move(self) -> MoveRequest:
        if self.force and self.to in STAGES:
            # A patch keeps what it does not name: so the next try does not begin with it, and be promoted by it.
            raise ValueError("force is about a promotion: set it to null, since a patch keeps it")
        return self


class NotLookedYet(Exception):
    """A promotion waits until the log was looked at."""


def make_move(
    store: ExperimentStore, move: MoveRequest, now: float, look: Callable[[], Known | None]
) -> tuple[Experiment, Known | None]:
    """Make a move; returns what is in force from then on, and the evidence of a promotion.

    `look` reads the log, for a promotion alone; None: it was not read yet.

    Raises:
        NotLookedYet: The log was not read yet.
        IllegalEvent: It can't happen now, or nothing supports a promotion and `force` is not given.
    """
    challenger, known = challenger_of(store, move), None
    if move.to == "promoted":
        check_promotion(store, challenger)
        known = look()
        if known is None and not move.force:
            raise NotLookedYet
        missing = None if known is None else unsupported(known, str(challenger))
        if missing is not None and not move.force:
            raise IllegalEvent(f"{missing}: nothing supports a promotion; `force` promotes it all the same")
    evidence = None if known is None else known.evidence
    serving = act(
        store, "move", by="person", reason=move.reason, at=now, to=move.to, challenger=challenger, evidence=evidence
    )
    return serving, known


def challenger_of(store: ExperimentStore, move: MoveRequest) -> str | None:
    """Who is promoted; None: it is no promotion, or one of several challengers that is not named."""
    if move.to != "promoted" or move.challenger is not None:
        return move.challenger if move.to == "promoted" else None
    names = [arm.name for arm in store.definition().arms if arm.name != INCUMBENT]
    return names[0] if len(names) == 1 else None

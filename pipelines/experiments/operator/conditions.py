"""Conditions of an experiment's status, as the API conventions of Kubernetes want them.

    Accepted     the spec can be used
    Progressing  it waits for something that comes by itself; False: a person has to look, or it is over
    InForce      every router that asks has what follows from it
    Settled      of a promotion: the incumbent's model server serves what won, or what it did before a rollback; there
                 is none where nothing was promoted, or where people have gone on from it since

A condition keeps its `lastTransitionTime` as long as its status is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

_LONGEST = 30_000  # characters of a message; the conventions allow 32,768


class Condition(NamedTuple):
    """What is said of one aspect."""

    type: Literal["Accepted", "Progressing", "InForce", "Settled"]
    status: Literal["True", "False", "Unknown"]
    reason: str
    """In one word."""
    message: str


def with_condition(
    before: Sequence[Mapping[str, Any]], said: Condition, generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions of a status with one of them as it is now.

    Args:
        before: Those in the status.
        said: The one.
        generation: Of the spec that it is about.
        now: Seconds since 1970.
    """
    old = next((one for one in before if one["type"] == said.type), None)
    same = old is not None and old["status"] == said.status
    since = old["lastTransitionTime"] if old is not None and same else iso(now)
    made = {**said._asdict(), "message": said.message[:_LONGEST], "observedGeneration": generation}
    made["lastTransitionTime"] = since
    return sorted([*(dict(one) for one in before if one["type"] != said.type), made], key=lambda one: one["type"])


def iso(at: float) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

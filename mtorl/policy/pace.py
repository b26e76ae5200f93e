"""How the spend of a paced account compares with what its plan wants spent by now: for people, it decides nothing.

An account is ahead or behind by 1 where the gap is so large that pacing already plans to spend nothing, or twice what
the schedule says (`mtorl.policy.pacing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from mtorl.policy.pacing import Plan, State
from mtorl.policy.periods import Period


class Pace(NamedTuple):
    """A paced account now.

    Attributes:
        arm: Whose it is.
        campaign: For which campaign; "*" is any.
        channel: Likewise.
        period: Of its budget.
        planned: What the plan wants spent by now, currency units.
        committed: What is spent and reserved, currency units.
        largest_gap: The gap at which pacing does all that it can, currency units.
    """

    arm: str
    campaign: str
    channel: str
    period: Period
    planned: float
    committed: float
    largest_gap: float

    @classmethod
    def of(cls, arm: str, campaign: str, channel: str, period: Period, plan: Plan, state: State) -> Self:
        """That of a plan, at its last update."""
        return cls(arm, campaign, channel, period, plan.scheduled(state.at), state.spent, plan.largest_gap)

    @property
    def ahead(self) -> float:
        """By how much more is spent than planned, in units of the largest gap; negative: less is."""
        return (self.committed - self.planned) / self.largest_gap


def extremes(paces: Iterable[Pace]) -> dict[tuple[str, Period], tuple[float, float]]:
    """How far any account of an arm and period is ahead, and how far any is behind, at most; 0: none is."""
    found: dict[tuple[str, Period], tuple[float, float]] = {}
    for pace in paces:
        ahead, behind = found.get((pace.arm, pace.period), (0.0, 0.0))
        found[pace.arm, pace.period] = max(ahead, pace.ahead), max(behind, -pace.ahead)
    return found

"""Spend of a paced account against its plan, for metrics only; no decision reads it.

An account is ahead or behind by 1 where the gap is so large that pacing already plans to spend nothing, or twice the
schedule (`mtorl.policy.pacing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from mtorl.policy.pacing import Plan, State
from mtorl.policy.periods import Period


class Pace(NamedTuple):
    """A paced account now; money in currency units."""

    arm: str
    campaign: str  # "*" is any, as for the channel
    channel: str
    period: Period
    planned: float  # by now
    committed: float  # spent and reserved
    largest_gap: float  # at which pacing does all that it can

    @classmethod
    def of(cls, arm: str, campaign: str, channel: str, period: Period, plan: Plan, state: State) -> Self:
        """The account of a plan, at its last update."""
        return cls(arm, campaign, channel, period, plan.scheduled(state.at), state.spent, plan.largest_gap)

    @property
    def ahead(self) -> float:
        """Spend above the plan, in units of the largest gap; negative where spend is below."""
        return (self.committed - self.planned) / self.largest_gap


def extremes(paces: Iterable[Pace]) -> dict[tuple[str, Period], tuple[float, float]]:
    """Largest distance ahead and behind, of all accounts of an arm and period; 0 where none is."""
    found: dict[tuple[str, Period], tuple[float, float]] = {}
    for pace in paces:
        ahead, behind = found.get((pace.arm, pace.period), (0.0, 0.0))
        found[pace.arm, pace.period] = max(ahead, pace.ahead), max(behind, -pace.ahead)
    return found

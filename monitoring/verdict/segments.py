"""Computes the lift within segments of the traffic, such as devices. These lifts are not part of the verdict.

All confidence intervals hold simultaneously (Bonferroni). Segments must not depend on the decision, so only values
known before it are allowed.
"""

import math
from collections.abc import Mapping
from typing import TypedDict

from monitoring.decision_log import DecisionLog
from monitoring.verdict.comparison import Comparison
from monitoring.verdict.experiment_users import experiment_users
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import DECISIONS
from mtorl.log.gain import Gain
from mtorl.runtime.sql import sql_text

# Report at most this many segments of a column.
MOST = 12


class SegmentLift(TypedDict):
    """The difference between a challenger and the incumbent in one segment, with the counts of both arms.

    Attributes:
        segment: Value of the column that defines the segment; None if the value is unknown.
        lift: Lift of the primary metric; None if an arm has no decision.
        lift_ci: Always-valid confidence interval; None for too few users.
    """

    challenger: str
    segment: str | None
    users: int
    decisions: int
    lift: float | None
    lift_ci: list[float] | None


class Segments(TypedDict):
    """The lifts in all segments.

    Attributes:
        confidence: Confidence level of each interval. All intervals together have the level 1 - alpha.
        lifts: Lifts of the reported segments, by column.
        smaller: Number of decisions in segments that are too small to be reported, by column.
    """

    confidence: float
    lifts: dict[str, list[SegmentLift]]
    smaller: dict[str, int]


def segment_lifts(log: DecisionLog, experiment: Experiment, gain: Gain, by: Mapping[str, str]) -> Segments:
    """Compute the lift in each segment of the given columns.

    Args:
        by: SQL of each column's value, by the column's name.
    """
    challengers = [arm.name for arm in experiment.arms if arm.name != INCUMBENT]
    alpha = experiment.alpha / (len(challengers) * len(by) * (MOST + 1))
    found = Segments(confidence=1.0 - alpha, lifts={}, smaller={})
    for column, value in by.items():
        with experiment_users(log, experiment, gain, segment=value) as read:
            sizes = read.segments()
            largest = [(segment, size) for segment, size in sizes if segment is not None][:MOST]
            shown = [*largest, *((segment, size) for segment, size in sizes if segment is None)]
            found["lifts"][column] = []
            for segment, _ in shown:
                users = read.users(segment="segment IS NULL" if segment is None else f"segment = {sql_text(segment)}")
                comparisons = [Comparison(users, name, gain, None, alpha) for name in challengers]
                found["lifts"][column] += [_lift(each, segment, experiment.metrics.primary) for each in comparisons]
            found["smaller"][column] = sum(size for _, size in sizes) - sum(size for _, size in shown)
    return found


def _lift(comparison: Comparison, segment: str | None, primary: str) -> SegmentLift:
    lift, users, arms = comparison.lift(primary), comparison.users, (comparison.challenger, INCUMBENT)
    return SegmentLift(
        challenger=comparison.challenger,
        segment=segment,
        users=users.count(*arms),
        decisions=round(sum(users.of(arm, ((DECISIONS, 1.0),)) for arm in arms)),
        lift=lift.value if math.isfinite(lift.value) else None,
        lift_ci=list(lift.ci) if all(map(math.isfinite, lift.ci)) else None,
    )

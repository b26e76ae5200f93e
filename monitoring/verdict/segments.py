"""Computes lifts by segment: where a challenger gains and where it loses. They are not part of the verdict.

    segment_lifts(log, experiment, gain, {"device": "json_extract_string(record.context, '$.device')"})

The same decisions count as in the verdict. The experiment's error rate is shared evenly (Bonferroni) among all segments
that could be shown (`MOST` of a column, and the unknown one) for each challenger, so all intervals of a call hold
simultaneously. A segment must be known before the decision. Lifts are not adjusted: few users have covariates.
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

MOST = 12  # reported segments of a column, the largest ones


class SegmentLift(TypedDict):
    """Difference of a challenger and the incumbent in one segment; plain values, JSON-ready."""

    challenger: str
    segment: str | None  # None: unknown
    users: int  # of both arms
    decisions: int
    lift: float | None  # lift of the primary metric; None: an arm has no decision in this segment
    lift_ci: list[float] | None  # always-valid interval, simultaneous with all others of the call; None: too few users


class Segments(TypedDict):
    """Lifts of all segments."""

    confidence: float  # error rate of each interval; together, all hold at the experiment's 1 - alpha
    lifts: dict[str, list[SegmentLift]]  # by column
    smaller: dict[str, int]  # decisions in unreported segments, by column


def segment_lifts(log: DecisionLog, experiment: Experiment, gain: Gain, by: Mapping[str, str]) -> Segments:
    """Compare the arms within segments; `by` maps a column to the SQL of its value in a `record` of the log."""
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

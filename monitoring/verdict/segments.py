"""Lifts by segment: where a challenger gains and where it loses. They are no part of the verdict.

    segment_lifts(log, experiment, gain, {"device": "json_extract_string(record.context, '$.device')"})

The same decisions count as in the verdict, and the intervals are always valid, too. Many segments are many chances to
find something by luck, so the error rate of the experiment is shared evenly (Bonferroni) among all that could be shown,
`MOST` of a column and the unknown one, of each challenger: all intervals of a call hold together. A segment must be
known before the decision, as context and static columns are. No lift is adjusted: covariates add little if few users of
a segment have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypedDict

import pandas as pd

from monitoring.decision_log import DecisionLog
from monitoring.verdict.comparison import Comparison
from monitoring.verdict.counted_decisions import shares_of_stages
from monitoring.verdict.experiment_users import experiment_users
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain

MOST = 12  # segments of a column that are reported, the largest ones


class SegmentLift(TypedDict):
    """A challenger less the incumbent, in one segment; plain values, ready for JSON."""

    challenger: str
    segment: str | None  # None: nobody knows it
    users: int  # of both arms
    decisions: int
    lift: float | None  # of the primary metric; None: an arm has no decision here
    lift_ci: list[float] | None  # always valid, together with all others of the call; None: there are too few users


class Segments(TypedDict):
    """Lifts of all segments."""

    confidence: float  # of each interval, so that all of them hold together at the experiment's 1 - alpha
    lifts: dict[str, list[SegmentLift]]  # by column
    smaller: dict[str, int]  # decisions of segments that are not reported, by column


def segment_lifts(log: DecisionLog, experiment: Experiment, gain: Gain, by: Mapping[str, str]) -> Segments:
    """Compare the arms within segments of columns (name: SQL of the value in a `record` of the log)."""
    challengers = [arm.name for arm in experiment.arms if arm.name != INCUMBENT]
    alpha = experiment.alpha / (len(challengers) * len(by) * (MOST + 1))
    found = Segments(confidence=1.0 - alpha, lifts={}, smaller={})
    for column, value in by.items():
        with experiment_users(log, experiment, gain, segment=value) as read:
            users = read.users().rows
        shown = list(_segments(users))
        found["lifts"][column] = [
            _lift(rows, segment, name, experiment, gain, alpha) for segment, rows in shown for name in challengers
        ]
        found["smaller"][column] = int(users["decisions"].sum() - sum(rows["decisions"].sum() for _, rows in shown))
    return found


def _segments(users: pd.DataFrame) -> Iterator[tuple[str | None, pd.DataFrame]]:
    sizes = users.groupby("segment")["decisions"].sum().sort_values(ascending=False, kind="stable")
    for value in sizes.index[:MOST]:
        yield str(value), users[users["segment"] == value]
    if len(unknown := users[users["segment"].isna()]):
        yield None, unknown


def _lift(
    users: pd.DataFrame, segment: str | None, challenger: str, experiment: Experiment, gain: Gain, alpha: float
) -> SegmentLift:
    of_both = users[users["arm"].isin((challenger, INCUMBENT))]
    stages = [stage for stage in shares_of_stages(experiment) if (of_both["stage"] == stage).any()]
    comparison = Comparison(of_both, challenger, stages, gain, None, alpha)
    lift = comparison.lift(experiment.metrics.primary)
    return SegmentLift(
        challenger=challenger,
        segment=segment,
        users=int(of_both["unit"].nunique()),
        decisions=int(of_both["decisions"].sum()),
        lift=lift.value if math.isfinite(lift.value) else None,
        lift_ci=list(lift.ci) if all(map(math.isfinite, lift.ci)) else None,
    )

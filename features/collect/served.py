"""Reads the decisions of one arm with what a plan of its exploration needs.

rows = served_decisions("lake", spec, experiment, "incumbent")
rows[["channel_probs", "exposure_probs", "window"]]
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from features.collect.database import open_duckdb
from features.collect.training_log import Decisions, judge
from features.engine import name_of
from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.touchpoints import LogError

MOST = 20_000
"""Decisions of several users that are looked at: more make no figure of a plan more certain than a forecast is."""


def served_decisions(place: str | Path, spec: DatasetSpec, experiment: Experiment, arm: str) -> pd.DataFrame:
    """Read an arm's decisions whose probabilities are known.

    Decisions count by the name and salt of the experiment.

    Returns:
        One row a decision, at most `MOST`, chosen by the hash of the user: timestamp, user_id, channel_probs and
        exposure_probs (lists in the order of the channels), exposed, gain, window (JSON).
    """
    if arm not in [one.name for one in experiment.arms]:
        raise LogError(f"arm: {arm!r} is not one of {', '.join(one.name for one in experiment.arms)}")
    gain = " + ".join(f"{weight!r} * j.{name_of(name)}" for name, weight in spec.reward.gain.terms)
    whose = {"name": experiment.name, "salt": experiment.salt, "arm": arm}
    there = "FROM judged AS j JOIN collected_decision AS d USING (decision_id)"
    of_arm = "WHERE d.experiment = $name AND d.salt = $salt AND d.arm = $arm AND NOT d.withdrawn"
    lake = Lake.open(place)
    with open_duckdb(lake) as db:
        judge(db, lake, spec, Decisions())
        # A window is larger than a decision: no more than these are brought into memory.
        known = db.connection.execute(
            f"""SELECT j.timestamp, d.user_id, j.channel_probs, j.exposure_probs, j.exposed,
                       if(j.exposed, {gain}, 0.0) AS gain, w."window"
            {there} JOIN collected_window AS w USING (decision_id) {of_arm} AND j.left_out IS NULL
            ORDER BY hash(d.user_id), j.timestamp LIMIT {MOST}""",
            whose,
        ).df()
        left_out = db.connection.execute(
            f"SELECT coalesce(j.left_out, 'no_window'), count(*) {there} {of_arm} GROUP BY 1 ORDER BY 1", whose
        ).fetchall()
    if known.empty:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out)
        rows = sum(count for _, count in left_out)
        what = f"none of the {rows:,} says with what probabilities: {reasons}" if rows else "there is none"
        raise LogError(f"{place}: no decision of arm {arm!r} of experiment {experiment.name!r} to plan with; {what}")
    return known

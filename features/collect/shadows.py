"""Reads shadow decisions of challengers with the incumbent's decisions and their outcomes.

    rows = shadows("lake", spec, experiment, by=["device"])
    report = shadow_report(rows, spec.channels)               # mtorl.evaluation.shadow

`rules.py` says which decisions an estimate may rest on, and with which probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from features.collect.database import open_duckdb
from features.collect.rules import by_channel
from features.collect.training_log import Decisions, judge
from features.engine import name_of
from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.records import segment_sql
from mtorl.log.splits import fractions_of
from mtorl.log.touchpoints import LogError

MOST = 500_000
"""Shadow decisions that are read into memory: more would make no interval that anybody acts on narrower."""


def shadows(place: str | Path, spec: DatasetSpec, experiment: Experiment, by: Sequence[str] = ()) -> pd.DataFrame:
    """Read an experiment's shadow decisions: all, or those of as many whole users (by hash) as make about `MOST`.

    Args:
        by: Categorical columns of the context or of the user, for segments.

    Returns:
        One row a decision and challenger, in the order of time, as `mtorl.evaluation.shadow` reads it; `users_share` is
        the share of the users that was read.
    """
    segments = "".join(f"{segment_sql(spec, name, 'd')} AS {name_of(name)}, " for name in by)
    lake = Lake.open(place)
    if not lake.arrived("shadow") and not lake.closed("shadow"):
        raise LogError(f"{place}: no shadow decisions; a router writes them while the stage is shadow")
    gain = " + ".join(f"{weight!r} * j.{name_of(name)}" for name, weight in spec.reward.gain.terms)
    # As in a verdict, a decision is valued once its outcomes are in: those of an hour ago have earned nothing yet.
    hours = max(spec.outcome_hours, experiment.metrics.outcome_hours or 0.0)
    with open_duckdb(lake) as db:
        judge(db, lake, spec, Decisions(hours))
        db.view("shadow", lake.records(db, "shadow"))
        whose = {"name": experiment.name, "salt": experiment.salt}
        there = """FROM shadow AS s
            JOIN collected_decision AS d USING (decision_id) JOIN judged AS j USING (decision_id)
            WHERE d.experiment = $name AND d.salt = $salt AND NOT d.withdrawn"""
        users = db.connection.execute(f"SELECT d.user_id, count(*) AS rows {there} GROUP BY 1", whose).df()
        users = users.iloc[fractions_of(users["user_id"], "shadow").argsort()]
        chosen = users["user_id"][users["rows"].cumsum() - users["rows"] < MOST]
        db.add("chosen", pa.table({"user_id": pa.array(chosen, pa.string())}))
        rows = db.connection.execute(
            f"""
            SELECT s.arm, coalesce(s.model_digest, '') AS model, s.fault, d.user_id, {segments}
                   d.fallback_reason IS NULL AS decided,
                   {_own("d", "coalesce(d.drawn_channel, d.channel)", "d.expose OR d.budget_exhausted")},
                   {_own("s", "s.channel", "s.expose", "challenger_")},
                   j.left_out, j.drawn_channel, j.channel_probs, j.exposure_probs, j.exposed,
                   if(j.exposed, {gain}, 0.0) AS gain, if(j.exposed, j.cost, 0.0) AS cost,
                   {_listed("channel_probs", spec)}, {_listed("exposure_probs", spec)},
                   {_listed("expected_rewards", spec)}, {_listed("expected_costs", spec)},
                   {len(chosen) / max(len(users), 1)!r}::DOUBLE AS users_share
            {there} AND d.user_id IN (SELECT user_id FROM chosen)
            ORDER BY d.event_time, s.shadow_id""",
            whose,
        ).df()
    if rows.empty:
        raise LogError(f"{place}: no shadow decisions of experiment {experiment.name!r} with salt {experiment.salt!r}")
    return rows


def _own(record: str, channel: str, expose: str, prefix: str = "incumbent_") -> str:
    """What a policy chose by itself, before exploration."""
    explored = f"json_extract_string({record}.exploration, '$.channel')"
    exposed = f"CAST(json_extract_string({record}.exploration, '$.expose') AS BOOLEAN)"
    return f"coalesce({explored}, {channel}) AS {prefix}channel, coalesce({exposed}, {expose}) AS {prefix}expose"


def _listed(field: str, spec: DatasetSpec) -> str:
    """A challenger's figures as a list in the order of the channels; NaN if unknown."""
    values = f"json_transform(s.{field}, {by_channel(spec)})"
    named = ", ".join(f"coalesce({values}.{name_of(channel)}, 'nan'::DOUBLE)" for channel in spec.channels)
    return f"[{named}] AS challenger_{field}"

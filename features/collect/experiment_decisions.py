"""Reads the decisions of one experiment from the lake, for forecasts, budget plans and shadow reports."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from features import messages
from features.collect.database import open_duckdb
from features.collect.rules import fields
from features.collect.stored_rows import Decided
from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.records import segment_sql
from mtorl.log.splits import fractions_of
from mtorl.log.touchpoints import LogError
from mtorl.runtime.sql import sql_name

MOST_SERVED = 20_000
"""Largest number of decisions that a budget plan reads. More would not make the plan more precise, because the
forecasts themselves are less certain."""
MOST_SHADOWS = 500_000
"""Largest number of shadow decisions that are read into memory. More would not make an interval so much narrower that
it changes the recommended action."""


def served_decisions(
    place: str | Path, spec: DatasetSpec, experiment: Experiment, arm: str, most: int = MOST_SERVED
) -> pd.DataFrame:
    """Read at most `most` decisions of one arm, from which the value of a policy can be estimated.

    If there are more decisions, users are sampled by a hash of their id. Decisions whose outcomes may still arrive are
    left out.

    Returns:
        One row per decision. `channel_probs` and `exposure_probs` are lists in the order of the channels.
    """
    if arm not in (names := [one.name for one in experiment.arms]):
        raise LogError(messages.UNKNOWN_ARM(arm=arm, known=names))
    lake = Lake.open(place)
    outcomes = ", ".join(f"if(j.exposed, j.{sql_name(one)}, 0.0) AS {sql_name(one)}" for one in spec.window_outcomes)
    with open_duckdb(lake) as db:
        hours = max(spec.outcome_hours, experiment.metrics.outcome_hours or 0.0)
        (decided := Decided(db, lake, spec.replace(outcome_hours=hours))).judge()
        windows = decided.lake.records(db, "window")
        # Windows are much larger than decisions, so only those of the chosen decisions are read.
        known = db.connection.execute(
            f"""SELECT j.timestamp, d.user_id, j.campaign_id, j.drawn_channel AS channel, j.channel_probs,
                       j.exposure_probs, j.exposed, {outcomes}, {_gain(spec)}, w."window"
            FROM judged AS j JOIN decided AS d USING (decision_id) JOIN {windows} AS w USING (decision_id)
            WHERE d.experiment = $name AND d.salt = $salt AND d.arm = $arm AND NOT d.withdrawn AND j.left_out IS NULL
            ORDER BY hash(d.user_id), j.timestamp LIMIT {most}""",
            {"name": experiment.name, "salt": experiment.salt, "arm": arm},
        ).df()
    if known.empty:
        raise LogError(messages.NO_PROBABILITIES(lake=place, arm=arm, experiment=experiment.name))
    return known


def decisions_by_hour(place: str | Path, spec: DatasetSpec, experiment: Experiment) -> pd.Series:
    """Count the decisions of an experiment in each hour, in UTC."""
    lake = Lake.open(place)
    with open_duckdb(lake) as db:
        Decided(db, lake, spec.replace(outcome_hours=0.0)).judge()
        found = db.connection.execute(
            """SELECT date_trunc('hour', j.timestamp) AS hour, count(*) AS decisions
            FROM judged AS j JOIN decided AS d USING (decision_id)
            WHERE d.experiment = $name AND d.salt = $salt AND NOT d.withdrawn
              AND coalesce(j.left_out NOT IN ('override', 'repeated'), true) GROUP BY 1 ORDER BY 1""",
            {"name": experiment.name, "salt": experiment.salt},
        ).df()
    return pd.Series(found["decisions"].to_numpy(float), pd.DatetimeIndex(found["hour"]).tz_convert("UTC"))


def shadows(place: str | Path, spec: DatasetSpec, experiment: Experiment, by: Sequence[str] = ()) -> pd.DataFrame:
    """Read the shadow decisions of an experiment, each with the incumbent's decision on the same request.

    A shadow decision is what a challenger policy would have decided. Users never see its ad. If there are more than
    `MOST_SHADOWS` shadow decisions, users are sampled by a hash of their id.
    """
    segments = "".join(f"{segment_sql(spec, name, 'd')} AS {sql_name(name)}, " for name in by)
    lake = Lake.open(place)
    # Without its late outcomes, a new decision's gain would be too low.
    hours = max(spec.outcome_hours, experiment.metrics.outcome_hours or 0.0)
    with open_duckdb(lake) as db:
        (decided := Decided(db, lake, spec.replace(outcome_hours=hours))).judge()
        db.view("shadow", decided.lake.records(db, "shadow"))
        db.view("decision", decided.lake.records(db, "decision"))
        whose = {"name": experiment.name, "salt": experiment.salt}
        there = """FROM shadow AS s JOIN decision AS d USING (decision_id) JOIN judged AS j USING (decision_id)
            WHERE d.experiment = $name AND d.salt = $salt AND NOT d.withdrawn"""
        users = db.connection.execute(f"SELECT d.user_id, count(*) AS rows {there} GROUP BY 1", whose).df()
        users = users.iloc[fractions_of(users["user_id"], "shadow").argsort()]
        chosen = users["user_id"][users["rows"].cumsum() - users["rows"] < MOST_SHADOWS]
        db.add("chosen", pa.table({"user_id": pa.array(chosen, pa.string())}))
        rows = db.connection.execute(
            f"""
            SELECT s.arm, coalesce(s.model_digest, '') AS model, s.fault, d.user_id, {segments}
                   d.fallback_reason IS NULL AS decided,
                   {_own("d", "coalesce(d.drawn_channel, d.channel)", "d.expose OR d.budget_exhausted")},
                   {_own("s", "s.channel", "s.expose", "challenger_")},
                   j.left_out, j.drawn_channel, j.channel_probs, j.exposure_probs, j.exposed,
                   {_gain(spec)}, if(j.exposed, j.cost, 0.0) AS cost,
                   {_listed("channel_probs", spec)}, {_listed("exposure_probs", spec)},
                   {_listed("expected_rewards", spec)}, {_listed("expected_costs", spec)},
                   {len(chosen) / max(len(users), 1)!r}::DOUBLE AS users_share
            {there} AND d.user_id IN (SELECT user_id FROM chosen)
            ORDER BY d.event_time, s.shadow_id""",
            whose,
        ).df()
    if rows.empty:
        which = f"experiment {experiment.name!r} with salt {experiment.salt!r}"
        raise LogError(f"{place}: no shadow decisions of {which}. A router writes them while the stage is shadow")
    return rows


def _own(record: str, channel: str, expose: str, prefix: str = "incumbent_") -> str:
    """Return SQL for a policy's choices of channel and exposure before random exploration."""
    explored = f"json_extract_string({record}.exploration, '$.channel')"
    exposed = f"CAST(json_extract_string({record}.exploration, '$.expose') AS BOOLEAN)"
    return f"coalesce({explored}, {channel}) AS {prefix}channel, coalesce({exposed}, {expose}) AS {prefix}expose"


def _listed(field: str, spec: DatasetSpec) -> str:
    """Return SQL that converts a JSON object with one number per channel to a list of these numbers."""
    values = f"json_transform(s.{field}, {fields(spec.channels, 'DOUBLE')})"
    named = ", ".join(f"coalesce({values}.{sql_name(channel)}, 'nan'::DOUBLE)" for channel in spec.channels)
    return f"[{named}] AS challenger_{field}"


def _gain(spec: DatasetSpec) -> str:
    terms = " + ".join(f"{weight!r} * j.{sql_name(name)}" for name, weight in spec.reward.gain.terms)
    return f"if(j.exposed, {terms}, 0.0) AS gain"

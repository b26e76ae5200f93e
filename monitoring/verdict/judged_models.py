"""Finds the models that a verdict is about: the newest of each arm, and only since no other one decided.

A model that is promoted or rolled back in mid-experiment makes two policies of one arm. The newest serves now, and
would be shipped. Judged are decisions after the last one of any other model of any arm, so that all arms are compared
over the same time. A decision without a model (a fallback) counts by its time; one from the future, of a clock that was
ahead, is not the newest. A model is identified by its digest or, without one, by name and version. Exploration is a
part of the policy: the same model with another share or scope is another one.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from mtorl.experiment.experiment import Experiment

# Of what a policy answered; empty: nothing is explored.
EXPLORATION = "CASE WHEN fallback_reason IS NULL THEN concat_ws(' ', exploration->>'share', exploration->>'scope') END"

if TYPE_CHECKING:
    import duckdb


class JudgedModels(NamedTuple):
    """The newest models of an experiment, and the time since when they alone decide."""

    digests: dict[str, str]  # by arm; of a model without one, name and version
    since: datetime | None  # the last decision of any other model or exploration; None: there is none

    @property
    def said(self) -> str:
        """An addition to a verdict's reason."""
        if self.since is None:
            return ""
        at = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f" (of what was decided after {at}, when the model of an arm had changed, or its exploration)"


def judged_models(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> JudgedModels:
    """Find the newest model of each arm in the table `record`: decisions with `digest` and `exploration`."""
    rows = db.execute(
        """WITH answered AS (
            SELECT arm, digest, exploration, decided, (decided, decision_id) AS place FROM record
            WHERE experiment = $name AND coalesce(salt, $salt) = $salt AND assignment_probability < 1
              AND decided <= now()),
        newest AS (
            SELECT arm, arg_max(digest, place) FILTER (digest IS NOT NULL) AS newest,
                   arg_max(exploration, place) FILTER (exploration IS NOT NULL) AS explores
            FROM answered GROUP BY arm)
        SELECT arm, newest, max(decided) FILTER (digest <> newest OR exploration <> explores)
        FROM answered JOIN newest USING (arm) GROUP BY arm, newest ORDER BY arm""",
        {"name": experiment.name, "salt": experiment.salt},
    ).fetchall()
    changes = [changed for _, _, changed in rows if changed is not None]
    return JudgedModels({arm: newest for arm, newest, _ in rows if newest is not None}, max(changes, default=None))

"""Which models an experiment's verdict is about: the newest of each arm, and only since no other one decided.

A model that is promoted or rolled back in mid-experiment makes two policies of one arm. The newest is what people ask
about: it serves now, and would be shipped. Judged is what was decided after the last decision of any other model of
any arm, so that all arms are compared over the same time. A decision without a model (a fallback) counts by its time.
One from the future, of a clock that was ahead, is not the newest.
A model is known by its digest or, where an arm does not give one, by name and version; one that says nothing of itself
can't be told from another.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from monitoring.decision_log import Period
from mtorl.experiment.experiment import Experiment
from mtorl.log.records import one_record_each

_IDENTITY = "coalesce(model_digest, nullif(concat_ws(' ', model_name, model_version), ''))"

if TYPE_CHECKING:
    import duckdb


class JudgedModels(NamedTuple):
    """The newest models of an experiment, and since when they alone decide."""

    digests: dict[str, str]  # by arm; of a model without one, name and version
    since: datetime | None  # the last decision of any other model; None: there is none

    @property
    def said(self) -> str:
        """What to add to a verdict's reason."""
        if self.since is None:
            return ""
        return f" (of what was decided after {self.since:%Y-%m-%d %H:%M:%S} UTC, when the model of an arm had changed)"


def judged_models(db: duckdb.DuckDBPyConnection, experiment: Experiment, period: Period) -> JudgedModels:
    """Find the newest model of each arm in the view `decision_log`.

    Args:
        db: Where the view is.
        experiment: The experiment that is judged.
        period: Decisions that count.
    """
    rows = db.execute(
        f"""WITH answered AS (
            SELECT arm, {_IDENTITY} AS digest, CAST(event_time AS TIMESTAMPTZ) AS decided, decision_id
            FROM ({one_record_each("decision", "decision_log")})
            WHERE experiment = $name AND coalesce(salt, $salt) = $salt AND assignment_probability < 1
              AND {_IDENTITY} IS NOT NULL AND CAST(event_time AS TIMESTAMPTZ) <= now() AND {period.condition()}),
        newest AS (SELECT arm, last(digest ORDER BY decided, decision_id) AS newest FROM answered GROUP BY arm)
        SELECT arm, newest, max(decided) FILTER (digest <> newest)
        FROM answered JOIN newest USING (arm) GROUP BY arm, newest ORDER BY arm""",
        {"name": experiment.name, "salt": experiment.salt, **period.parameters()},
    ).fetchall()
    changes = [changed for _, _, changed in rows if changed is not None]
    return JudgedModels({arm: newest for arm, newest, _ in rows}, max(changes, default=None))

"""Sums up what collected decisions teach.

The measure is a policy that draws every channel alike and always exposes: a log that supports it supports any policy.
Its mean importance weight over a generation is the share of its exposures that the generation could have made; another
value means that the recorded probabilities are wrong.
"""

import math
from dataclasses import dataclass

from features.collect.database import Database
from features.collect.rules import SAMPLED, of_channel
from mtorl.log.dataset import DatasetSpec

_DIGEST = 64  # characters


@dataclass(frozen=True)
class Generation:
    """Decisions that one model took for one arm."""

    arm: str
    model: str  # digest, or else name and version
    opportunities: int
    exposures: int
    supported: float  # share of the uniform policy's exposures that these decisions could have made
    mean_weight: float  # of that policy: `supported`, up to chance, if the probabilities are right
    mean_weight_error: float  # standard error, by users

    def __str__(self) -> str:
        model = self.model[:8] if len(self.model) == _DIGEST else self.model
        return (
            f"{self.arm} {model}: {self.opportunities:,} opportunities, {self.exposures:,} exposures; of a "
            f"uniform policy's exposures {self.supported:.0%} could have been made (mean weight "
            f"{self.mean_weight:.2f} +- {1.96 * self.mean_weight_error:.2f})"
        )


@dataclass(frozen=True)
class Learnable:
    """What collected decisions teach; `str()` of it is a summary for people."""

    decisions: int  # that were looked at
    opportunities: int
    exposures: int  # that took place, those included that are no opportunity
    left_out: dict[str, int]  # decisions that are no opportunity, by reason (`rules.py`)
    generations: tuple[Generation, ...]  # oldest first
    pruned: int = 0  # touchpoints that a training does not read, because there are too many
    incomplete: int = 0  # exposures that are no touchpoint, because they lack a column that must be there
    share: float = 1.0  # of the users, chosen by their hash, whose decisions were looked at

    def __str__(self) -> str:
        unknown = "a column with `missing: error` is unknown; write `missing: unknown` if it may be"
        lines = [
            *([f"of {self.share:.2%} of the users, whom a hash chooses:"] if self.share < 1 else []),
            f"{self.decisions:,} decisions: {self.opportunities:,} opportunities, "
            f"{self.exposures:,} exposures took place",
            *(f"left out, {reason}: {count:,}" for reason, count in self.left_out.items()),
            *map(str, self.generations),
            *([f"{self.pruned:,} touchpoints are left out: more than most_touchpoints"] if self.pruned else []),
            *([f"{self.incomplete:,} more exposures teach nothing: {unknown}"] if self.incomplete else []),
        ]
        return "\n".join(lines)


def learnable_of(db: Database, spec: DatasetSpec, share: float) -> Learnable:
    """Count the rows of the view `judged` (`rules.JUDGED`) of a share of the users."""
    counts = db.execute(
        f"""SELECT left_out, count(*) AS decisions, count_if(touchpoint) AS shown, count_if(incomplete) AS lacking
        FROM judged WHERE {SAMPLED} GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    left_out = {str(reason): int(rows) for reason, rows, *_ in counts if reason is not None}
    decisions, exposures, incomplete = (int(sum(row[place] for row in counts)) for place in (1, 2, 3))
    channels = len(spec.channels)
    could_be = " * ".join(of_channel(probs, "drawn_channel", spec) for probs in ("channel_probs", "exposure_probs"))
    places = range(1, channels + 1)
    possible = " + ".join(f"if(channel_probs[{i}] * exposure_probs[{i}] > 0, 1, 0)" for i in places)
    rows = db.execute(
        f"""WITH weighed AS (
            SELECT arm, generation, user_id, timestamp, exposed, ({possible}) / {channels} AS supported,
                   CASE WHEN exposed THEN 1 / ({channels} * {could_be}) ELSE 0.0 END AS weight
            FROM judged WHERE left_out IS NULL AND {SAMPLED}),
        by_user AS (
            SELECT arm, generation, user_id, CAST(count(*) AS DOUBLE) AS n, count_if(exposed) AS exposures,
                   sum(supported) AS supported, sum(weight) AS weight, max(timestamp) AS newest
            FROM weighed GROUP BY arm, generation, user_id)
        SELECT arm, generation, sum(n) AS opportunities, sum(exposures) AS shown, sum(supported) AS could_be,
               sum(weight) AS w, sum(weight * weight) AS ww, sum(weight * n) AS wn, sum(n * n) AS nn
        FROM by_user GROUP BY arm, generation ORDER BY max(newest), arm"""
    ).fetchall()
    opportunities, generations = decisions - sum(left_out.values()), tuple(_generation(*row) for row in rows)
    return Learnable(decisions, opportunities, exposures, left_out, generations, 0, incomplete, share)


def _generation(arm: str, model: str, n: float, shown: int, supported: float, *sums: float) -> Generation:
    w, ww, wn, nn = sums  # over users: of weights, their squares, weights times rows, and squares of rows
    error = math.sqrt(max(ww - 2 * w / n * wn + (w / n) ** 2 * nn, 0.0)) / n  # of a ratio, by the delta method
    return Generation(arm, model, int(n), int(shown), supported / n, w / n, error)

"""What collected decisions teach, in figures and in words.

The measure is a policy that draws every channel alike and always exposes: a log that supports it supports any policy.
Its mean importance weight over a generation's decisions is the share of its exposures that the generation could have
made; another value means that the recorded probabilities are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.collect.database import execute, text
from mtorl.log.dataset import DatasetSpec

if TYPE_CHECKING:
    import duckdb

_DIGEST = 64  # characters


@dataclass(frozen=True)
class Generation:
    """Decisions that one model took for one arm."""

    arm: str
    model: str  # digest, or else name and version
    opportunities: int
    exposures: int  # of them
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


_INCOMPLETE = (
    "more exposures took place and teach nothing: a static or context column is unknown there, of a newcomer perhaps, "
    "and the description says `missing: error` of it; write `missing: unknown` if that may be"
)


@dataclass(frozen=True)
class Learnable:
    """What collected decisions teach; `str()` of it is a summary for people."""

    decisions: int
    opportunities: int
    exposures: int  # that took place, those included that are no opportunity
    left_out: dict[str, int]  # decisions that are no opportunity, by reason (`rules.py`)
    generations: tuple[Generation, ...]  # oldest first
    pruned: int = 0  # touchpoints that a training does not read, because there are too many
    incomplete: int = 0  # exposures that are no touchpoint, because they lack a column that must be there

    def __str__(self) -> str:
        lines = [
            f"{self.decisions:,} decisions: {self.opportunities:,} opportunities, "
            f"{self.exposures:,} exposures took place",
            *(f"left out, {reason}: {count:,}" for reason, count in self.left_out.items()),
            *map(str, self.generations),
            *([f"{self.pruned:,} touchpoints are left out: there are too many"] if self.pruned else []),
            *([f"{self.incomplete:,} {_INCOMPLETE}"] if self.incomplete else []),
        ]
        return "\n".join(lines)


def learnable_of(db: duckdb.DuckDBPyConnection, spec: DatasetSpec) -> Learnable:
    """Count the rows of the table `judged` (`rules.decisions_query`)."""
    counts = "SELECT count(*), count_if(touchpoint), count_if(incomplete) FROM judged"
    ((decisions, exposures, incomplete),) = execute(db, counts)
    reasons = "SELECT left_out, count(*) FROM judged WHERE left_out IS NOT NULL GROUP BY 1 ORDER BY 1"
    left_out = {str(reason): int(count) for reason, count in execute(db, reasons)}
    uniform = 1 / len(spec.channels)
    place = f"list_position([{', '.join(map(text, spec.channels))}], drawn_channel)"
    could_be = f"list_extract(channel_probs, {place}) * list_extract(exposure_probs, {place})"
    possible = "len(list_filter(list_zip(channel_probs, exposure_probs), lambda pair: pair[1] * pair[2] > 0))"
    rows = execute(
        db,
        f"""WITH weighed AS (
            SELECT arm, generation, user_id, timestamp, exposed, {uniform!r} * {possible} AS supported,
                   CASE WHEN exposed THEN {uniform!r} / ({could_be}) ELSE 0.0 END AS weight
            FROM judged WHERE left_out IS NULL),
        by_user AS (
            SELECT arm, generation, user_id, count(*) AS rows, count_if(exposed) AS exposures,
                   sum(supported) AS supported, sum(weight) AS weight, max(timestamp) AS newest
            FROM weighed GROUP BY ALL),
        total AS (
            SELECT arm, generation, sum(rows) AS rows, sum(exposures) AS exposures,
                   sum(supported) / sum(rows) AS supported, sum(weight) / sum(rows) AS mean, max(newest) AS newest
            FROM by_user GROUP BY ALL)
        SELECT arm, generation, any_value(total.rows), any_value(total.exposures), any_value(total.supported), mean,
               sqrt(sum((by_user.weight - mean * by_user.rows) ** 2)) / any_value(total.rows)
        FROM by_user JOIN total USING (arm, generation) GROUP BY arm, generation, mean, total.newest
        ORDER BY total.newest, arm""",
    )
    generations = tuple(Generation(arm, model, int(n), int(shown), *figures) for arm, model, n, shown, *figures in rows)
    opportunities = decisions - sum(left_out.values())
    return Learnable(decisions, opportunities, exposures, left_out, generations, incomplete=incomplete)

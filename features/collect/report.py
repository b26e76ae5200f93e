"""Counts what collected decisions teach."""

from dataclasses import dataclass

from features.collect.database import Database
from features.collect.rules import SAMPLED


@dataclass(frozen=True)
class Learnable:
    """What collected decisions teach; `str()` of it is a summary for people."""

    decisions: int  # that were looked at
    opportunities: int
    exposures: int  # that took place, those included that are no opportunity
    left_out: dict[str, int]  # decisions that are no opportunity, by reason (`rules.py`)
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
            *([f"{self.pruned:,} touchpoints are left out: more than most_touchpoints"] if self.pruned else []),
            *([f"{self.incomplete:,} more exposures teach nothing: {unknown}"] if self.incomplete else []),
        ]
        return "\n".join(lines)


def learnable_of(db: Database, share: float) -> Learnable:
    """Count the rows of the view `judged` (`rules.JUDGED`) of a share of the users."""
    counts = db.execute(
        f"""SELECT left_out, count(*) AS decisions, count_if(touchpoint) AS shown, count_if(incomplete) AS lacking
        FROM judged WHERE {SAMPLED} GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    left_out = {str(reason): int(rows) for reason, rows, *_ in counts if reason is not None}
    decisions, exposures, incomplete = (int(sum(row[place] for row in counts)) for place in (1, 2, 3))
    return Learnable(decisions, decisions - sum(left_out.values()), exposures, left_out, 0, incomplete, share)

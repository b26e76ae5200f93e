"""Defines changes of a simulated market: harmful ones, harmless ones, and errors in the data."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.monitoring_runs.days import Shift

Kind = Literal["harm", "drift", "data_quality"]
COLUMN = "number_0"  # name of the numeric column that changes


@dataclass(frozen=True)
class Scenario:
    """A change of a simulated market, and the kind of alarm that the monitor should raise.

    Attributes:
        title: Description in the table.
        by_hours: Whether the monitor should find the change within the day.
    """

    title: str
    kind: Kind
    shift: Shift
    by_hours: bool = False


def dearer(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows.assign(cost=rows["cost"] * 1.25)


def fewer_clicks(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Reduce all click rates by 20 %, while the model still predicts the old rates."""
    return rows.assign(rate=rows["rate"] * 0.8)


def new_segment(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Replace a tenth of the users by new users with another device and more stories, but the same click rates."""
    users = rows["user_id"].unique()
    new = rows["user_id"].isin(set(users[rng.random(len(users)) < 0.1])).to_numpy()
    story = new & (rng.random(len(rows)) < 0.3)
    return rows.assign(
        user_id=rows["user_id"].where(~new, "new-" + rows["user_id"]),
        device=rows["device"].where(~new, "tv"),
        placement=rows["placement"].where(~story, "story"),
    )


def other_unit(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Multiply a column by 100, as if euros had become cents."""
    return rows.assign(**{COLUMN: rows[COLUMN] * 100.0})


def null(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows.assign(**{COLUMN: np.nan})


SCENARIOS = {
    "cost": Scenario("cost x 1.25", "harm", dearer),
    "clicks": Scenario("click rate -20 %", "harm", fewer_clicks),
    "segment": Scenario("10 % of the users are new", "drift", new_segment),
    "unit": Scenario("a column x 100", "drift", other_unit),
    "null": Scenario("a column without values", "data_quality", null, by_hours=True),
}

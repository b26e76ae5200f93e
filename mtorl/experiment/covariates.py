"""The covariates of an experiment file: facts about users from before they meet any arm, which make intervals narrower.

    covariates:
      past: true                          # decisions and outcomes of each user in this decision log before
      table: users.parquet                # further facts, one row a user
      columns: [forecast, touchpoints]

Why, and what must not be among it: `adjustment.py`. Reading them: `monitoring.covariates`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mtorl.runtime.validation import FromList, StrictModel, Text

MOST_COLUMNS = 20  # each takes a little of what is known of the variance, and hardly anything is known by so many
SUFFIXES = (".parquet", ".csv")
USER = "user_id"


class Covariates(StrictModel):
    """What is known of users before their first decision in the experiment."""

    past: bool = True
    """What each did in this decision log before its first decision at a stage with challengers: its decisions, and what
    came of them."""
    table: Text | None = None
    """A Parquet or CSV file with a row for each user, its `user_id`, and numbers that were known before the experiment
    began. A relative path is sought from where the verdict is asked for."""
    columns: Annotated[tuple[Text, ...], FromList, Field(max_length=MOST_COLUMNS)] = ()
    """Of the table; by default, all but `user_id`."""

    @field_validator("table")
    @classmethod
    def _is_a_table(cls, table: str | None) -> str | None:
        if table is not None and PurePath(table).suffix not in SUFFIXES:
            raise ValueError(f"{table!r} is neither {' nor '.join(SUFFIXES)}")
        return table

    @field_validator("columns")
    @classmethod
    def _columns_are_numbers(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if USER in columns or len(set(columns)) != len(columns):
            raise ValueError(f"expected different columns other than {USER}, got {', '.join(columns)}")
        return columns

    @model_validator(mode="after")
    def _says_what_is_known(self) -> Covariates:
        if not self.past and self.table is None:
            raise ValueError("without past or a table nothing is known: leave covariates out")
        if self.columns and self.table is None:
            raise ValueError("columns are those of a table: name it")
        return self

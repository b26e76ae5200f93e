"""Defines the budgets of an experiment, and the limits of the accounts that divide them."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field, field_validator, model_validator

from mtorl.log.times import zone
from mtorl.policy.periods import Period
from mtorl.policy.schedule import Pacing
from mtorl.runtime.validation import NoneInWord, StrictModel, Text


class AccountLimit(NamedTuple):
    """Spending limit of one account in the ledger, usually one arm's part of a budget.

    The arm, campaign or channel "*" stands for all of them together.
    """

    arm: str
    campaign: str
    channel: str
    part: float  # fraction of the budget's amount
    limit: float
    period: Period
    timezone: str
    pacing: Pacing | None


class Budget(StrictModel):
    """An amount of money for a campaign and a channel, which is divided among the arms."""

    campaign: Text
    """Campaign that the budget is for, or "*" for all campaigns together."""
    channel: Text
    """Channel that the budget is for, or "*" for all channels together."""
    amount: float = Field(ge=0)
    """Amount in currency units for all users of the layer, in total or for each period. The experiment's arms get the
    fraction of it that is the length of `layer_part`; the rest is for the layer's other users."""
    period: Period = "total"
    """total: one amount for all time. day, hour: the amount is available again in each day or hour."""
    timezone: Text = "UTC"
    """Time zone in which a day or hour begins: an IANA name such as Europe/Berlin."""
    pacing: Annotated[Pacing | None, NoneInWord()] = Field(
        default_factory=lambda budget: Pacing() if budget.get("period", "total") != "total" else None
    )
    """How spending is spread over the period. none: spend on every good opportunity until the money is gone. By
    default, a budget with the period day or hour is spread evenly, and a total is not spread."""

    @field_validator("timezone")
    @classmethod
    def _is_a_time_zone(cls, timezone: str) -> str:
        zone(timezone)
        return timezone

    @model_validator(mode="after")
    def _pacing_fits_the_period(self) -> Budget:
        if self.pacing is not None:
            self.pacing.check(self.period)
        return self

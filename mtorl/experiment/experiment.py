"""Reads the experiment file: which users get which policy, the budgets, and the metrics that define success."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from mtorl.experiment import messages
from mtorl.experiment.arm import ALL_ARMS, INCUMBENT, OUTSIDE, OVERRIDE, Arm, Moment, arm_key
from mtorl.experiment.assignment import assign, uniform
from mtorl.experiment.budget import AccountLimit, Budget
from mtorl.experiment.budget_table import BudgetTable
from mtorl.experiment.metrics import Metrics, check_outcomes
from mtorl.experiment.rule import check
from mtorl.experiment.stages import CHALLENGER_SHARE, Ramp, Stage
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.periods import period_at
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import prefixed
from mtorl.runtime.validation import FromList, StrictModel, Text, plain_values, read_yaml, validated

# Fraction of the experiment's money that is reserved for the users in `overrides`.
OVERRIDE_PART = 0.01
MOST_OVERRIDES = 1_000
MOST_BUDGETS = 50
"""Largest number of budgets in the file. For more budgets, use a budget table."""
Place = Annotated[float, Field(ge=0, le=1)]

_PLAN = {"hypothesis", "start", "planned_end", "ramp", "covariates", "minimum_effect"}
"""Fields that do not affect any decision. If only these fields change, the experiment keeps its version."""


class ExperimentError(InputError, ValueError):
    """Raised if an experiment file is invalid; the message names the field."""


class Experiment(StrictModel):
    """An experiment: its users, its policies, its budgets, and the metrics that decide which policy is better."""

    name: Text
    enabled: bool = True
    """false is the kill switch: all users get the incumbent at once."""
    salt: Text
    """Secret text from which, together with the user id, the arm of a user is computed. A new salt assigns all users to
    arms again, independently of the previous assignment."""
    unit: Literal["user_id"]
    """The unit that is assigned to arms at random. It is always the user."""
    layer: Text
    """Name of the layer. Each user has a random position from 0 to 1 in a layer, which is the same for all experiments
    of the layer."""
    layer_part: Annotated[tuple[Place, Place], FromList] = (0.0, 1.0)
    """Range of positions in the layer, end excluded: users with these positions are in the experiment. The ranges of
    two experiments in a layer must not overlap."""
    campaigns: Annotated[tuple[Text, ...], FromList, Field(min_length=1)] | None = None
    """The campaigns whose requests this experiment decides; by default, all campaigns."""
    stage: Stage = "shadow"
    """Stage, which sets the share of the experiment's users that get a challenger. A file with a ramp may omit it."""
    arms: Annotated[tuple[Arm, ...], FromList]
    """The policies to compare. One arm must have the name incumbent."""
    default_channel: Text
    """The channel of a fallback decision if the request has no baseline."""
    budgets: Annotated[tuple[Budget, ...], FromList] = ()
    """Budgets of the whole experiment. Each arm has its own account with its share of each budget. For more than 50
    budgets, use `budget_table`."""
    budget_table: BudgetTable | None = None
    """A .csv or .parquet file with one row per budget, instead of `budgets`."""
    metrics: Metrics
    alpha: float = Field(gt=0, lt=1)
    """Largest accepted probability that any verdict is false, over all stages and however often the results are looked
    at."""
    min_runtime_hours: float = Field(ge=0)
    """Minimum runtime: no verdict is given earlier than this many hours after the start."""
    owner: Text
    """The person or team to contact about the experiment."""
    hypothesis: Text | None = None
    """What the challenger is expected to change and why, in one or two sentences."""
    start: Moment | None = None
    """Time at which a ramp leaves the draft phase automatically; by default, a person starts the experiment."""
    planned_end: Moment | None = None
    """Time at which a ramp stops the experiment if no challenger has won; by default, the experiment has no end."""
    ramp: Ramp | None = None
    """The stages that `mtorl experiment run` moves through automatically; by default, people set `stage`."""
    covariates: Literal["past"] | None = None
    """past: narrow the intervals with covariates. A user's covariates are the user's decisions and outcomes in the
    decision log from before the experiment's first decision at a stage with challengers. By default, no covariates are
    used."""
    overrides: dict[Text, Text] = Field(default_factory=dict, max_length=MOST_OVERRIDES)
    """Fixed arms by user id, for example for testers. Overrides apply at every stage, unless the kill switch is on.
    Metrics leave these users out."""
    minimum_effect: float | None = Field(default=None, gt=0, lt=1)
    """Smallest relative improvement of the primary metric that is worth finding, as given to `mtorl experiment plan`.
    If the data show that a challenger's improvement is smaller, the verdict is futile. By default, no verdict is
    futile."""

    @field_validator("arms")
    @classmethod
    def _arms_share_the_units(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in arms]
        if INCUMBENT not in names or len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(messages.ARMS(names=names))
        total = sum(arm.weight for arm in arms)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(messages.WEIGHTS(total=total))
        return arms

    @field_validator("layer_part")
    @classmethod
    def _part_holds_somebody(cls, part: tuple[float, float]) -> tuple[float, float]:
        if part[0] >= part[1]:
            raise ValueError(messages.LAYER_PART(part=list(part)))
        return part

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        if len(budgets) > MOST_BUDGETS:
            raise ValueError(messages.TOO_MANY_BUDGETS(count=len(budgets), most=MOST_BUDGETS))
        scopes = [(budget.campaign, budget.channel, budget.period) for budget in budgets]
        for i, (campaign, channel, period) in enumerate(scopes):
            if (first := scopes.index(scopes[i])) < i:
                other = f"budgets[{first}]"
                raise ValueError(messages.BUDGET_TWICE(campaign=campaign, channel=channel, period=period, other=other))
        return budgets

    @field_validator("overrides")
    @classmethod
    def _one_order(cls, overrides: dict[str, str]) -> dict[str, str]:
        return dict(sorted(overrides.items()))

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        if bool(self.budgets) == (self.budget_table is not None):
            raise ValueError(messages.NO_BUDGET())
        names = [arm.name for arm in self.arms]
        for user, arm in self.overrides.items():
            if arm not in names:
                raise ValueError(messages.NO_ARM(user=user, arm=arm, arms=", ".join(names)))
        campaigns = set(self.campaigns or ())
        for i, budget in enumerate(self.all_budgets):
            if campaigns and budget.campaign not in campaigns:
                some = ", ".join((self.campaigns or ())[:20])
                fault = messages.BUDGET_CAMPAIGN(campaign=budget.campaign, campaigns=some)
                raise ValueError(prefixed(self._place(i), fault))
        if self.ramp is None and "stage" not in self.model_fields_set:
            raise ValueError(messages.STAGE_OR_RAMP())
        if self.start is not None and self.planned_end is not None and self.start >= self.planned_end:
            raise ValueError(messages.PLANNED_END_EARLY())
        return self

    @cached_property
    def version(self) -> str:
        """Return a digest of all fields that affect decisions, as 16 hexadecimal digits."""
        in_force = self.model_dump_json(exclude={*_PLAN, "budget_table"})
        # Hash the content of the budget table, because an active experiment may use a renamed copy.
        if self.budget_table is not None:
            in_force += self.budget_table.digest
        return hashlib.blake2b(in_force.encode(), digest_size=8).hexdigest()

    @property
    def all_budgets(self) -> tuple[Budget, ...]:
        """Return the budgets from the file or from the budget table."""
        return self.budgets if self.budget_table is None else self.budget_table.budgets

    def _place(self, number: int) -> str:
        return f"budgets[{number}]" if self.budget_table is None else f"{self.budget_table.name}, budget {number + 1}"

    def arm_of(self, user_id: str, campaign_id: str | None = None) -> tuple[str, float]:
        """Return a user's arm, and the probability of this assignment.

        Users and campaigns outside the experiment get the arm OUTSIDE, with probability 1.
        """
        if self.overrides_arm_of(user_id, campaign_id):
            return self.overrides[user_id], 1.0
        if not self.decides(campaign_id) or not self.holds(user_id):
            return OUTSIDE, 1.0
        shares = self.shares()
        arm = assign(("arm", self.layer, self.name, self.salt), user_id, shares)
        return arm, shares[arm]

    def overrides_arm_of(self, user_id: str, campaign_id: str | None = None) -> bool:
        """Return whether a user's arm is fixed in `overrides`, unless the kill switch is on."""
        return self.enabled and user_id in self.overrides and self.decides(campaign_id)

    def decides(self, campaign_id: str | None) -> bool:
        """Return whether this experiment decides the requests of a campaign; None stands for any of its campaigns."""
        return self.campaigns is None or campaign_id is None or campaign_id in self._campaigns

    @cached_property
    def _campaigns(self) -> frozenset[str]:
        return frozenset(self.campaigns or ())

    @cached_property
    def _budgets_by_campaign(self) -> Mapping[str, Sequence[Budget]]:
        found: dict[str, list[Budget]] = {}
        for budget in self.all_budgets:
            found.setdefault(budget.campaign, []).append(budget)
        return found

    def budgets_of(self, campaign: str) -> list[Budget]:
        """Return the budgets that pay for a campaign: its own budgets, and those for all campaigns."""
        return [one for name in dict.fromkeys((campaign, "*")) for one in self._budgets_by_campaign.get(name, ())]

    def holds(self, user_id: str) -> bool:
        """Return whether a user's fixed position in the layer, from 0 to 1, is in `layer_part`."""
        start, end = self.layer_part
        return start <= uniform("layer", self.layer, user_id) < end

    def shares(self) -> dict[str, float]:
        """Return the fraction of the experiment's users that each arm gets at the current stage."""
        return self._shares

    @cached_property
    def _shares(self) -> dict[str, float]:
        challengers = {arm.name: arm.weight for arm in self.arms if arm.name != INCUMBENT}
        wanted = CHALLENGER_SHARE[self.stage] if self.enabled else 0.0
        total = sum(challengers.values())
        kept = min(1.0, wanted / total) if total > 0 else 0.0
        shares = {name: weight * kept for name, weight in challengers.items()}
        return {arm.name: shares.get(arm.name, 1.0 - sum(shares.values())) for arm in self.arms}

    def refused_until(self, campaign: str, channel: str, now: float) -> int:
        """Return the time at which a channel with an exhausted budget gets new money, in seconds since 1970.

        This is the latest end of the channel's budget periods. It is FOREVER if a budget has no period.
        """
        drawn_on = (b for b in self.budgets_of(campaign) if b.channel in (channel, "*"))
        return max(period_at(budget.period, budget.timezone, now)[1] for budget in drawn_on)

    def accounts(self) -> list[AccountLimit]:
        """Return the ledger accounts that divide each budget between the arms.

        An arm's part is proportional to its number of users, so that every arm has the same money per user.
        """
        start, end = self.layer_part
        inside = end - start
        parts = {arm: inside * share for arm, share in self.shares().items()}
        if self.enabled and self.overrides:
            parts = {name: (1.0 - OVERRIDE_PART) * part for name, part in parts.items()}
            parts[OVERRIDE] = inside * OVERRIDE_PART
        if inside < 1:
            parts[OUTSIDE] = 1.0 - inside
        parts = {ALL_ARMS: 1.0} | parts
        return [
            AccountLimit(
                arm,
                b.campaign,
                b.channel,
                part,
                b.amount * part,
                b.period,
                b.timezone,
                None if arm in (ALL_ARMS, OVERRIDE) else b.pacing,
            )
            for arm, part in parts.items()
            for b in self.all_budgets
        ]

    def key(self, arm: str) -> str:
        """Return the name of an arm with this experiment's name as its prefix."""
        return arm_key(self.name, arm)

    def arm(self, name: str) -> Arm:
        """Return the arm with this name; OUTSIDE is served by the incumbent."""
        name = INCUMBENT if name == OUTSIDE else name
        return next(arm for arm in self.arms if arm.name == name)

    def check(self, spec: DatasetSpec) -> None:
        """Check that the data set has every channel, column and outcome in the experiment file.

        Raises:
            ExperimentError: the data set lacks a name; the message names the field.
        """
        try:
            check_outcomes(self.metrics.names, spec.outcome_kinds)
        except ValueError as error:
            raise ExperimentError(prefixed("metrics", error)) from None
        channels, known = set(spec.channels), ", ".join(spec.channels)
        named = [("default_channel", self.default_channel)]
        # If the channel of a budget is misspelt, the intended channel has no budget and is never shown.
        named += [(self._place(i), one.channel) for i, one in enumerate(self.all_budgets) if one.channel != "*"]
        for where, channel in named:
            if channel not in channels:
                raise ExperimentError(prefixed(where, messages.UNKNOWN_CHANNEL(channel=channel, known=known)))
        for i, arm in enumerate(self.arms):
            if arm.policy is None or arm.policy == "baseline":
                continue
            try:
                check(arm.policy, spec, f"arms[{i}].policy")
            except ValueError as error:
                raise ExperimentError(*error.args) from None

    @classmethod
    def load(cls, path: str | Path, tables: Path | None = None) -> Experiment:
        """Read an experiment file and check it.

        Args:
            tables: Folder of the budget table; by default, the folder of the experiment file.

        Raises:
            ExperimentError: the file is invalid; the message names the file and the field.
        """
        data = read_yaml(path := Path(path), "the experiment file", ExperimentError)
        try:
            return cls.from_dict(data, tables or path.resolve().parent)
        except ExperimentError as error:
            raise ExperimentError(prefixed(path, error)) from None

    @classmethod
    def from_yaml(cls, text: str | bytes, folder: Path | None = None) -> Experiment:
        """Create an experiment from the text of an experiment file.

        Raises:
            ExperimentError: the message names the field.
        """
        try:
            data = plain_values(text)
        except ValueError as error:
            raise ExperimentError(str(error)) from None
        return cls.from_dict(data, folder)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path | None = None) -> Experiment:
        """Create an experiment from plain values, such as the content of a YAML file.

        Args:
            folder: Folder of the budget table.

        Raises:
            ExperimentError: a value is invalid; the message names the field.
        """
        return validated(cls, data, ExperimentError, folder)


def text_with_table(experiment: Experiment, folder: Path) -> str:
    """Return the experiment as YAML for a file in `folder`, and copy its budget table there."""
    if experiment.budget_table is not None:
        experiment = experiment.replace(budget_table=experiment.budget_table.kept_in(folder))
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def is_switched_off(text: str | bytes) -> bool:
    """Return whether the text of an experiment file contains `enabled: false`.

    Other fields are ignored, so that the kill switch works even in an invalid file.
    """
    try:
        values = plain_values(text)
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("enabled") is False

"""The experiment file: who gets which policy, with whose money, and what would count as a success.

    experiment = Experiment.load("experiment.yaml")
    arm, probability = experiment.arm_of("user-42")
    experiment.accounts()                             # the budgets, in all and of each arm, for the ledger

Every field of the file is in docs/experiment-file.md, which is tested against the classes below.

An arm is known by its name: the order of the arms does not matter, and another name is another arm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from mtorl.experiment.assignment import assign, uniform
from mtorl.experiment.covariates import Covariates
from mtorl.experiment.metrics import check_outcomes, known, known_gain
from mtorl.experiment.rule import Rule, check, digest
from mtorl.experiment.stages import CHALLENGER_SHARE, Ramp, Stage
from mtorl.log.dataset import DatasetSpec
from mtorl.log.times import moment, zone
from mtorl.policy.exploration import Exploration
from mtorl.policy.periods import Period, period_at
from mtorl.policy.schedule import Pacing
from mtorl.runtime.validation import FromList, NoneInWord, StrictModel, Text, load_yaml, plain_values, validated

INCUMBENT = "incumbent"
OUTSIDE = "outside"
"""In place of an arm: the user is not in the experiment, and gets the incumbent."""
ALL_ARMS = "*"
"""Whose account is the experiment's own: every arm draws on it."""
Direction = Literal["up", "down"]
MetricName = Annotated[Text, AfterValidator(known)]
Place = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[AwareDatetime, BeforeValidator(moment)]

_PLAN = {"hypothesis", "start", "planned_end", "ramp", "covariates", "minimum_effect"}
"""Fields that no decision depends on."""

Baseline = Annotated[Literal["baseline"], Tag("baseline")]
Policy = Annotated[
    Baseline | Annotated[Rule, Tag("rows")],
    Discriminator(lambda policy: "baseline" if isinstance(policy, str) else "rows"),
]
"""A policy that needs no server."""


class ExperimentError(ValueError):
    """An experiment file is wrong; the message names the field."""


class AccountLimit(NamedTuple):
    """What one arm, or all of them together, may spend on a campaign and channel; "*" stands for any."""

    arm: str
    campaign: str
    channel: str
    part: float
    """Of the budget's amount."""
    limit: float
    period: Period
    timezone: str
    pacing: Pacing | None


class Arm(StrictModel):
    """One policy and where it answers."""

    name: Text
    weight: float = Field(ge=0)
    """Share of the units at the last stage; the weights of all arms add up to 1."""
    endpoint: Text | None = None
    """Base URL of the server, or the whole URL to post to."""
    policy: Policy | None = None
    """Instead of an endpoint: what needs no server. baseline, which is what the request itself says; or rows, of which
    the first one that fits decides."""
    model_digest: Text | None = None
    """Beginning of the digest of the model that must answer there; by default, any model may."""
    model_name: Text | None = None
    """Of the model that answers there, if it does not say so itself; likewise its version."""
    model_version: Text | None = None

    explore: Exploration | None = None
    """A share of its decisions that is left to chance; by default, none. The kill switch stops it."""

    @field_validator("name")
    @classmethod
    def _is_one_arm(cls, name: str) -> str:
        if name == ALL_ARMS:
            raise ValueError(f"{name!r} stands for all arms: choose another name")
        return name

    @field_validator("endpoint")
    @classmethod
    def _is_a_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{endpoint!r} is not an http(s) URL")
        return endpoint

    @model_validator(mode="after")
    def _answers_in_one_way(self) -> Arm:
        if (self.endpoint is None) == (self.policy is None):
            raise ValueError("give an endpoint, or else a policy such as baseline, which needs none")
        models = {name: getattr(self, name) for name in ("model_digest", "model_name", "model_version")}
        if self.policy is not None and (named := [name for name, value in models.items() if value is not None]):
            raise ValueError(f"{', '.join(named)}: only an endpoint has a model")
        return self

    @cached_property
    def rule_digest(self) -> str | None:
        """Identity of the policy if it is rows."""
        return None if self.policy is None or self.policy == "baseline" else digest(self.policy)

    @property
    def url(self) -> str | None:
        """Where its decisions are asked for; None: nowhere."""
        if self.endpoint is None:
            return None
        whole = urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if whole else f"{self.endpoint.rstrip('/')}/v1/models/{self.name}:predict"


def _paced_by_default(budget: Mapping[str, Any]) -> Pacing | None:
    return Pacing() if budget.get("period", "total") != "total" else None


class Budget(StrictModel):
    """Money for a campaign and channel, before it is split by arm."""

    campaign: Text
    """Campaign, or "*" for any."""
    channel: Text
    """Channel, or "*" for any."""
    amount: float = Field(ge=0)
    """Currency units, for all time or for each period."""
    period: Period = "total"
    """total: for all time. day, hour: anew for each one."""
    timezone: Text = "UTC"
    """Whose days and hours: an IANA name such as Europe/Berlin."""
    pacing: Annotated[Pacing | None, NoneInWord()] = Field(default_factory=_paced_by_default)
    """How the money is spread over its time; none, as by default for a total: first come, first served."""

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


class Guardrail(StrictModel):
    """A metric that must not get worse by more than a margin."""

    name: MetricName
    direction: Direction
    """Where the metric should go: up = more is better, down = less is better."""
    margin: float = Field(ge=0)
    """Harm that is accepted, in the metric's own unit."""


class Metrics(StrictModel):
    """What is measured; the primary metric decides."""

    primary: Annotated[Text, AfterValidator(known_gain)]
    secondary: Annotated[tuple[MetricName, ...], FromList] = ()
    guardrails: Annotated[tuple[Guardrail, ...], FromList] = ()
    outcome_hours: Annotated[Annotated[float, Field(gt=0, le=8760)] | None, NoneInWord()] = 24.0
    """Hours after a decision in which its outcomes happen, and are reported: later ones do not count, and a decision
    counts once they are over. none: whatever is known counts, which is right when no more outcomes will come."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that are measured, each once; the primary one first."""
        return tuple(dict.fromkeys((self.primary, *self.secondary, *(guardrail.name for guardrail in self.guardrails))))


class Experiment(StrictModel):
    """Who gets which policy, with whose money, and what would count as a success."""

    name: Text
    enabled: bool
    """false is the kill switch: everybody gets the incumbent."""
    salt: Text
    """A new salt shuffles all users anew."""
    unit: Literal["user_id"]
    """What is randomised."""
    layer: Text
    """Each user has one place in a layer, from 0 to 1, whatever the experiment."""
    layer_part: Annotated[tuple[Place, Place], FromList] = (0.0, 1.0)
    """From which place to which (exclusive) users are in this experiment. Parts of one layer must not overlap."""
    stage: Stage = "shadow"
    """Share of the experiment's units that leave the incumbent. A file with a ramp may leave it out."""
    arms: Annotated[tuple[Arm, ...], FromList]
    """The policies; one of them is called incumbent."""
    default_channel: Text
    """Named in the answer when a decision falls back, and the request has no baseline."""
    budgets: Annotated[tuple[Budget, ...], FromList]
    """Money of the whole experiment; each arm gets its share, in an account of its own."""
    metrics: Metrics
    alpha: float = Field(gt=0, lt=1)
    """Probability of any false verdict that is accepted: however often people look, over all stages together."""
    min_runtime_hours: float = Field(ge=0)
    """Before that, there is no verdict."""
    owner: Text
    """Whom to ask."""
    hypothesis: Text | None = None
    """What the challenger is expected to change, and why, in a sentence or two."""
    start: Moment | None = None
    """When a ramp leaves its draft by itself; by default, a person starts it."""
    planned_end: Moment | None = None
    """When a ramp stops an experiment that has found nothing by then; by default, it goes on."""
    ramp: Ramp | None = None
    """The stages that it goes through by itself, with `mtorl experiment run`; by default, people set `stage`."""
    covariates: Covariates | None = None
    """What is known of the users beforehand and makes intervals narrower; by default, nothing."""
    minimum_effect: float | None = Field(default=None, gt=0, lt=1)
    """By which share the primary metric must be larger to be worth finding, as `mtorl experiment plan` was asked. Once
    a challenger that is better by so much can be ruled out, the verdict is futile; by default, it never is."""

    @field_validator("arms")
    @classmethod
    def _arms_share_the_units(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in arms]
        if INCUMBENT not in names or len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"need {INCUMBENT!r} and at least one other, all different, got {names}")
        if OUTSIDE in names:
            raise ValueError(f"{OUTSIDE!r} stands for users who are not in the experiment, and can't be an arm")
        total = sum(arm.weight for arm in arms)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the weights must add up to 1, they add up to {total:g}")
        return arms

    @field_validator("layer_part")
    @classmethod
    def _part_holds_somebody(cls, part: tuple[float, float]) -> tuple[float, float]:
        if part[0] >= part[1]:
            raise ValueError(f"expected [from, to] with from < to, got {list(part)}")
        return part

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        if not budgets:
            raise ValueError("without a budget nothing could ever be exposed; give at least one")
        scopes = [(budget.campaign, budget.channel, budget.period) for budget in budgets]
        if len(set(scopes)) != len(scopes):
            campaign, channel, period = next(scope for scope in scopes if scopes.count(scope) > 1)
            raise ValueError(f"campaign {campaign!r}, channel {channel!r}, {period} is given twice")
        return budgets

    @model_validator(mode="after")
    def _is_at_some_stage(self) -> Experiment:
        if self.ramp is None and "stage" not in self.model_fields_set:
            raise ValueError("give a stage, or else a ramp, which goes through several")
        if self.start is not None and self.planned_end is not None and self.start >= self.planned_end:
            raise ValueError("planned_end must be later than start")
        return self

    @cached_property
    def version(self) -> str:
        """Changes with everything that is in force: 16 hexadecimal digits. What is planned does not decide anything."""
        in_force = self.model_dump_json(exclude=_PLAN)
        return hashlib.blake2b(in_force.encode(), digest_size=8).hexdigest()

    def arm_of(self, user_id: str) -> tuple[str, float]:
        """The arm that serves a user, and the probability with which a user gets that arm.

        For a user who is not in the experiment: OUTSIDE, and 1.
        """
        start, end = self.layer_part
        if not start <= uniform("layer", self.layer, user_id) < end:
            return OUTSIDE, 1.0
        shares = self.shares()
        arm = assign(("arm", self.layer, self.name, self.salt), user_id, shares)
        return arm, shares[arm]

    def shares(self) -> dict[str, float]:
        """Share of the experiment's units that each arm serves at this stage."""
        challengers = {arm.name: arm.weight for arm in self.arms if arm.name != INCUMBENT}
        wanted = CHALLENGER_SHARE[self.stage] if self.enabled else 0.0
        total = sum(challengers.values())
        kept = min(1.0, wanted / total) if total > 0 else 0.0
        shares = {name: weight * kept for name, weight in challengers.items()}
        return {arm.name: shares.get(arm.name, 1.0 - sum(shares.values())) for arm in self.arms}

    def refused_until(self, campaign: str, channel: str, now: float) -> int:
        """When the last of the budget periods ends that may have refused money now; FOREVER for a total.

        Args:
            campaign: Whose money it would have been.
            channel: For which channel.
            now: Seconds since 1970, as is the answer.
        """
        drawn_on = (b for b in self.budgets if b.campaign in (campaign, "*") and b.channel in (channel, "*"))
        return max(period_at(budget.period, budget.timezone, now)[1] for budget in drawn_on)

    def accounts(self) -> list[AccountLimit]:
        """Every budget as a whole, and each arm's part of it, in proportion to its users.

        Money per user is the same in every arm. Users outside the experiment have an account like an arm's: they must
        not spend an arm's money. The whole binds all of them together, so that a change of stage, weights, names or
        switch, which makes other parts, can't make the experiment spend more.
        """
        start, end = self.layer_part
        inside = end - start
        parts = {ALL_ARMS: 1.0} | {arm: inside * share for arm, share in self.shares().items()}
        if inside < 1:
            parts[OUTSIDE] = 1.0 - inside
        return [
            AccountLimit(
                arm,
                b.campaign,
                b.channel,
                part,
                b.amount * part,
                b.period,
                b.timezone,
                None if arm == ALL_ARMS else b.pacing,
            )
            for arm, part in parts.items()
            for b in self.budgets
        ]

    def arm(self, name: str) -> Arm:
        """The arm of that name; that of OUTSIDE is the incumbent."""
        name = INCUMBENT if name == OUTSIDE else name
        return next(arm for arm in self.arms if arm.name == name)

    def check(self, spec: DatasetSpec) -> None:
        """Whether it fits a data set.

        Raises:
            ExperimentError: It names a channel, a column or an outcome that the data set lacks.
        """
        try:
            check_outcomes(self.metrics.names, spec.outcome_kinds)
        except ValueError as error:
            raise ExperimentError(f"metrics: {error}") from None
        if self.default_channel not in spec.channels:
            raise ExperimentError(f"default_channel: {self.default_channel!r} is not one of {', '.join(spec.channels)}")
        for i, arm in enumerate(self.arms):
            if arm.policy is None or arm.policy == "baseline":
                continue
            try:
                check(arm.policy, spec)
            except ValueError as error:
                raise ExperimentError(f"arms[{i}].{error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read an experiment file.

        Raises:
            ExperimentError: the file can't be read, is not YAML, or a field is wrong.
        """
        return load_yaml(cls, Path(path), "the experiment file", ExperimentError)

    @classmethod
    def from_yaml(cls, text: str | bytes) -> Experiment:
        """Build from the content of an experiment file.

        Raises:
            ExperimentError: it is not YAML, or a field is wrong.
        """
        try:
            data = plain_values(text)
        except ValueError as error:
            raise ExperimentError(str(error)) from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Experiment:
        """Build from plain values, as YAML gives them.

        Raises:
            ExperimentError: a field is wrong, missing or unknown.
        """
        return validated(cls, data, ExperimentError)

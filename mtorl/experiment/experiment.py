"""The experiment file: who gets which policy, with whose money, and what would count as a success.

    experiment = Experiment.load("experiment.yaml")
    arm, probability = experiment.arm_of("user-42")
    experiment.accounts()                             # the budget of each arm, for the ledger

```yaml
name: mtorl-vs-frequency
enabled: true                      # false is the kill switch: everybody gets the incumbent
salt: 2026-11-a                    # a new salt shuffles all users anew
unit: user_id
layer: channel-policy              # experiments of one layer exclude each other
stage: 5%                          # shadow, 1%, 5%, 25%, 50%: share of all units that leave the incumbent
arms:                              # weights are those of the last stage
  - {name: incumbent, weight: 0.5, endpoint: "http://mtorl-incumbent"}
  - {name: challenger, weight: 0.5, endpoint: "http://mtorl-challenger"}
default_channel: search            # named in the answer when a decision falls back
budgets:                           # of the whole experiment; each arm gets its share, in an account of its own
  - {campaign: "*", channel: "*", amount: 10000}
  - {campaign: "*", channel: "*", amount: 500, period: day,    # total (default), or anew each day or hour, in UTC
     pacing: {price: 0.3}}         # optional: spread over the period, see schedule.py; a total needs start and end, too
metrics:
  primary: click_per_decision
  secondary: [exposure_ratio]
  guardrails: [{name: cost_per_decision, direction: down, margin: 0.02}]   # direction: where the metric should go
alpha: 0.05
min_runtime_hours: 168
owner: ads-platform
```

A stage below the arms' weights keeps a random part of each challenger's units with the incumbent. Whoever a smaller
stage gave to a challenger stays there when the stage grows, and nobody ever moves between two challengers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import yaml

from mtorl.experiment.assignment import assign, uniform
from mtorl.policy.schedule import Pacing

INCUMBENT = "incumbent"
Stage = Literal["shadow", "1%", "5%", "25%", "50%"]
Direction = Literal["up", "down"]
Period = Literal["total", "day", "hour"]

_CHALLENGER_SHARE = {"shadow": 0.0, "1%": 0.01, "5%": 0.05, "25%": 0.25, "50%": 0.5}


class ExperimentError(ValueError):
    """An experiment file is wrong; the message names the field."""


class AccountLimit(NamedTuple):
    """What one arm may spend on a campaign and channel; "*" stands for any."""

    arm: str
    campaign: str
    channel: str
    limit: float
    period: Period
    pacing: Pacing | None


def _text(where: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ExperimentError(
            f"{where}: expected text, got {value!r} (in YAML, put names such as 'on' or '1' in quotes)"
        )


def _number(where: str, value: object, low: float, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isinf(value):
        bounds = f"of at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ExperimentError(f"{where}: expected a number {bounds}, got {value!r}")


def _choice(where: str, value: object, literal: Any) -> None:
    if value not in get_args(literal):
        raise ExperimentError(f"{where}: {value!r} is not one of {', '.join(get_args(literal))}")


@dataclass(frozen=True)
class Arm:
    """One policy and where it answers."""

    name: str
    weight: float
    endpoint: str  # base URL of the server, or the whole URL to post to

    def __post_init__(self) -> None:
        _text("arms, name", self.name)
        _number(f"arm {self.name!r}, weight", self.weight, 0.0)
        _text(f"arm {self.name!r}, endpoint", self.endpoint)
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ExperimentError(f"arm {self.name!r}, endpoint: {self.endpoint!r} is not an http(s) URL")

    @property
    def url(self) -> str:
        """Where its decisions are asked for."""
        whole = urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if whole else f"{self.endpoint.rstrip('/')}/v1/models/{self.name}:predict"


@dataclass(frozen=True)
class Budget:
    """Money for a campaign and channel, before it is split by arm; for all time, or for each day or hour in UTC."""

    campaign: str
    channel: str
    amount: float
    period: Period = "total"
    pacing: Pacing | None = None  # how it is spread over its time; None: first come, first served

    def __post_init__(self) -> None:
        _text("budgets, campaign", self.campaign)
        _text("budgets, channel", self.channel)
        _number("budgets, amount", self.amount, 0.0)
        _choice("budgets, period", self.period, Period)
        if self.pacing is not None:
            try:
                self.pacing.check(self.period)
            except ValueError as error:
                raise ExperimentError(f"budgets, pacing: {error}") from None


@dataclass(frozen=True)
class Guardrail:
    """A metric that must not get worse by more than a margin."""

    name: str
    direction: Direction  # where the metric should go: up = more is better, down = less is better
    margin: float  # harm that is accepted, in the metric's own unit

    def __post_init__(self) -> None:
        _text("metrics.guardrails, name", self.name)
        _choice(f"guardrail {self.name!r}, direction", self.direction, Direction)
        _number(f"guardrail {self.name!r}, margin", self.margin, 0.0)


@dataclass(frozen=True)
class Metrics:
    """What is measured; the primary metric decides."""

    primary: str
    secondary: tuple[str, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()

    def __post_init__(self) -> None:
        _text("metrics.primary", self.primary)
        for i, name in enumerate(self.secondary):
            _text(f"metrics.secondary[{i}]", name)


@dataclass(frozen=True)
class Experiment:
    """One experiment, as its file says."""

    name: str
    enabled: bool
    salt: str
    unit: str
    layer: str
    stage: Stage
    arms: tuple[Arm, ...]
    default_channel: str
    budgets: tuple[Budget, ...]
    metrics: Metrics
    alpha: float
    min_runtime_hours: float
    owner: str

    def __post_init__(self) -> None:
        for name in ("name", "salt", "layer", "default_channel", "owner"):
            _text(name, getattr(self, name))
        if not isinstance(self.enabled, bool):
            raise ExperimentError(f"enabled: expected true or false, got {self.enabled!r}")
        if self.unit != "user_id":
            raise ExperimentError(f"unit: only 'user_id' is randomised, got {self.unit!r}")
        _choice("stage", self.stage, Stage)
        names = [arm.name for arm in self.arms]
        if INCUMBENT not in names or len(names) < 2 or len(set(names)) != len(names):
            raise ExperimentError(f"arms: need {INCUMBENT!r} and at least one other, all different, got {names}")
        total = sum(arm.weight for arm in self.arms)
        if abs(total - 1.0) > 1e-9:
            raise ExperimentError(f"arms, weight: the weights must add up to 1, they add up to {total:g}")
        if not self.budgets:
            raise ExperimentError("budgets: without a budget nothing could ever be exposed; give at least one")
        scopes = [(budget.campaign, budget.channel, budget.period) for budget in self.budgets]
        if len(set(scopes)) != len(scopes):
            twice = next(scope for scope in scopes if scopes.count(scope) > 1)
            raise ExperimentError(f"budgets: campaign {twice[0]!r}, channel {twice[1]!r}, {twice[2]} is given twice")
        _number("alpha", self.alpha, 0.0, 1.0)
        if self.alpha in (0, 1):
            raise ExperimentError(f"alpha: must lie between 0 and 1, got {self.alpha!r}")
        _number("min_runtime_hours", self.min_runtime_hours, 0.0)

    def arm_of(self, user_id: str) -> tuple[str, float]:
        """The arm that serves a user, and the probability with which a user gets that arm."""
        shares = self.shares()
        arm = assign(self.salt, user_id, {arm.name: arm.weight for arm in self.arms})
        if arm != INCUMBENT:
            # A second, independent point grows each challenger inside its own share: no unit moves between two.
            stays = shares[arm] / self.arm(arm).weight
            if uniform(self.salt, "stage", user_id) >= stays:
                arm = INCUMBENT
        return arm, shares[arm]

    def shares(self) -> dict[str, float]:
        """Share of the units that each arm serves at this stage."""
        challengers = {arm.name: arm.weight for arm in self.arms if arm.name != INCUMBENT}
        wanted = _CHALLENGER_SHARE[self.stage] if self.enabled else 0.0
        total = sum(challengers.values())
        kept = min(1.0, wanted / total) if total > 0 else 0.0
        shares = {name: weight * kept for name, weight in challengers.items()}
        return {arm.name: shares.get(arm.name, 1.0 - sum(shares.values())) for arm in self.arms}

    def accounts(self) -> list[AccountLimit]:
        """Each arm's part of every budget, in proportion to its users: money per user is the same in every arm."""
        return [
            AccountLimit(arm, budget.campaign, budget.channel, budget.amount * share, budget.period, budget.pacing)
            for arm, share in self.shares().items()
            for budget in self.budgets
        ]

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read an experiment file.

        Raises:
            ExperimentError: the file can't be read, is not YAML, or a field is wrong.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ExperimentError(f"{path}: cannot read the experiment file: {error}") from error
        try:
            return cls.from_dict(data)
        except ExperimentError as error:
            raise ExperimentError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Experiment:
        """Build from plain values, as YAML gives them."""
        values = _keys("experiment", data, cls)
        values["arms"] = tuple(Arm(**_keys(f"arms[{i}]", v, Arm)) for i, v in enumerate(_list("arms", values["arms"])))
        values["budgets"] = tuple(
            _budget(f"budgets[{i}]", v) for i, v in enumerate(_list("budgets", values["budgets"]))
        )
        metrics = _keys("metrics", values["metrics"], Metrics)
        metrics["secondary"] = tuple(_list("metrics.secondary", metrics.get("secondary", [])))
        metrics["guardrails"] = tuple(
            Guardrail(**_keys(f"metrics.guardrails[{i}]", v, Guardrail))
            for i, v in enumerate(_list("metrics.guardrails", metrics.get("guardrails", [])))
        )
        values["metrics"] = Metrics(**metrics)
        return cls(**values)


def _budget(where: str, data: object) -> Budget:
    values = _keys(where, data, Budget)
    if values.get("pacing") is not None:
        pacing = _keys(f"{where}.pacing", values["pacing"], Pacing)
        if "traffic" in pacing:
            pacing["traffic"] = tuple(_list(f"{where}.pacing.traffic", pacing["traffic"]))
        try:
            values["pacing"] = Pacing(**pacing)
        except ValueError as error:
            raise ExperimentError(f"{where}.pacing, {error}") from None
    return Budget(**values)


def _keys(where: str, data: object, cls: Any) -> dict[str, Any]:
    """`data` as keyword arguments of `cls`; a missing or unknown key is an error that lists the known ones."""
    if not isinstance(data, Mapping):
        raise ExperimentError(f"{where}: expected a mapping of fields, got {data!r}")
    known = {f.name: f.default is MISSING for f in fields(cls)}
    for key in data:
        if key not in known:
            raise ExperimentError(f"{where}: unknown field {key!r}; known: {', '.join(known)}")
    for key, required in known.items():
        if required and key not in data:
            raise ExperimentError(f"{where}: missing field {key!r}")
    return dict(data)


def _list(where: str, value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ExperimentError(f"{where}: expected a list, got {value!r}")
    return list(value)

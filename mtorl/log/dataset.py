"""One small YAML describes a data set: which column is what, its unit, and what a missing value means.

    spec = DatasetSpec.load("simulator")            # built in: simulator, kuairand-sequence, criteo-sequence
    spec = DatasetSpec.load("my-log.yaml")          # your own, usually with `adapter: touchpoints`

Everything downstream (log validation, features, windows, model, serving) reads the columns from here and nowhere else,
so a new data set is one new file. The description travels inside the model artifact: serving needs no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

Kind = Literal["numeric", "categorical"]
Missing = Literal["error", "zero", "unknown"]
Gain = Literal["click", "conversion", "revenue"]
PropensitySource = Literal["logged", "channel-frequency", "markov"]

OUTCOMES = ("click", "conversion", "revenue", "cost")
"""What is known only after an exposure; what is there at once (`immediate`) enters the model's input one step late."""

BASE_COLUMNS = (
    "user_id",
    "timestamp",
    "campaign_id",
    "channel",
    "cost",
    "click",
    "conversion",
    "revenue",
    "propensity",
)
"""The canonical touchpoint log starts with these, in this order; context, static and further outcome columns follow."""

# Names that other tables derived from the log use for themselves.
_RESERVED = {*BASE_COLUMNS, "step", "split", "event_timestamp", "created_timestamp", "row", "fault"}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BUILT_IN = Path(__file__).parent / "datasets"


class SpecError(ValueError):
    """A data set description is wrong; the message names the field."""


def _choice(where: str, value: object, literal: Any) -> None:
    if value not in get_args(literal):
        raise SpecError(f"{where}: {value!r} is not one of {', '.join(get_args(literal))}")


def _text(where: str, value: object, *, empty: bool = False) -> None:
    if not isinstance(value, str) or not (value.strip() or empty):
        raise SpecError(f"{where}: expected text, got {value!r} (in YAML, put names such as 'on' or '1' in quotes)")


def _count(where: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError(f"{where}: expected a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Column:
    """A context column (known before the decision), a static user column, or a further outcome."""

    name: str
    kind: Kind
    unit: str = ""  # for people; "" = no unit
    missing: Missing = "error"  # error: row is a fault; zero: 0.0; unknown: null (mean, or unknown category)

    def __post_init__(self) -> None:
        _text("column name", self.name)
        if not _IDENTIFIER.fullmatch(self.name) or self.name in _RESERVED or self.name.startswith("hist_"):
            raise SpecError(
                f"column {self.name!r}: a name starts with a letter, has letters, digits and _ only, and is neither a "
                "column of the log itself nor starts with hist_"
            )
        _choice(f"column {self.name!r}, kind", self.kind, Kind)
        _choice(f"column {self.name!r}, missing", self.missing, Missing)
        _text(f"column {self.name!r}, unit", self.unit, empty=True)
        if self.kind == "categorical" and self.missing == "zero":
            raise SpecError(f"column {self.name!r}, missing: 'zero' is for numeric columns; use error or unknown")


@dataclass(frozen=True)
class RewardSpec:
    """The learning signal: r_t = MinMaxNorm(g_t - cost_weight * w_t), gain g and cost w of one exposure."""

    gain: Gain
    cost_weight: float = 0.0  # the paper's multiplier s, in gain per currency unit

    def __post_init__(self) -> None:
        _choice("reward.gain", self.gain, Gain)
        if not isinstance(self.cost_weight, int | float) or not 0 <= self.cost_weight < float("inf"):
            raise SpecError(f"reward.cost_weight: expected a number of at least 0, got {self.cost_weight!r}")


@dataclass(frozen=True)
class DatasetSpec:
    """Description of one touchpoint log."""

    name: str
    description: str
    adapter: str  # turns the file into the canonical layout; "touchpoints" = the file already has it
    channels: tuple[str, ...]  # the actions; their order is the model's
    context: tuple[Column, ...]  # known before the decision, one value per touchpoint
    static: tuple[Column, ...]  # one value per user
    segment: str | None  # the categorical static column by which the incumbent tabulates
    reward: RewardSpec
    propensity: PropensitySource  # where the probability of the logged channel comes from
    currency: str  # unit of cost (and revenue, unless outcome_labels says otherwise)
    window: int = 20  # touchpoints that the model sees
    outcomes: tuple[Column, ...] = ()  # known only afterwards, besides click, ...: kept in the log, never context
    journey_gap_days: float = 30.0  # a longer pause ends a journey: what was before it is forgotten
    max_touchpoints: int = 10_000  # of one user; who has more is taken for a bot, and only the first ones are used
    min_touchpoints: int = 1  # a user with fewer is a fault of the log
    # Outcomes that are there before the user's next touchpoint. Only these the model sees of the touchpoint before: one
    # that is reported days later would tell it what nobody knows when it decides.
    immediate: tuple[str, ...] = ("click", "cost")
    outcome_labels: dict[str, str] = field(default_factory=dict)  # what click, ... mean in this data set

    def __post_init__(self) -> None:
        for name in ("name", "description", "adapter", "currency"):
            _text(name, getattr(self, name))
        for i, channel in enumerate(self.channels):
            _text(f"channels[{i}]", channel)
            if channel == "*" or channel != channel.strip():
                raise SpecError(f"channels[{i}]: {channel!r} is not a usable name ('*' and outer spaces are taken)")
        if len(self.channels) < 2 or len(set(self.channels)) != len(self.channels):
            raise SpecError(f"channels: need at least two different names, got {list(self.channels)}")
        names = [c.name for c in (*self.context, *self.static, *self.outcomes)]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise SpecError(f"context, static, outcomes: column {twice[0]!r} is declared twice")
        if self.segment is not None and self.segment not in [c.name for c in self.static if c.kind == "categorical"]:
            raise SpecError(f"segment: {self.segment!r} is not a categorical static column")
        _choice("propensity", self.propensity, PropensitySource)
        _count("window", self.window)
        _count("max_touchpoints", self.max_touchpoints)
        _count("min_touchpoints", self.min_touchpoints)
        gap = self.journey_gap_days
        if isinstance(gap, bool) or not isinstance(gap, int | float) or not 0 < gap < float("inf"):
            raise SpecError(f"journey_gap_days: expected a number of days above 0, got {gap!r}")
        for outcome in self.immediate:
            if outcome not in OUTCOMES:
                raise SpecError(f"immediate: {outcome!r} is not one of {', '.join(OUTCOMES)}")
        if len(set(self.immediate)) != len(self.immediate):
            raise SpecError(f"immediate: an outcome is named twice in {list(self.immediate)}")
        for outcome, label in self.outcome_labels.items():
            if outcome not in OUTCOMES:
                raise SpecError(f"outcome_labels: {outcome!r} is not one of {', '.join(OUTCOMES)}")
            _text(f"outcome_labels.{outcome}", label)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the canonical touchpoint log, in order."""
        return (*BASE_COLUMNS, *(c.name for c in (*self.context, *self.static, *self.outcomes)))

    @classmethod
    def load(cls, name_or_path: str | Path) -> DatasetSpec:
        """Read a built-in description by name, or any YAML file by path.

        Raises:
            SpecError: no such description, not YAML, or a field is wrong.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = _BUILT_IN / f"{name_or_path}.yaml"
            if str(name_or_path) not in built_in():
                raise SpecError(
                    f"no data set named {str(name_or_path)!r}; built in: {', '.join(built_in())}; "
                    "your own: give the path of its .yaml file"
                )
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SpecError(f"{path}: cannot read the data set description: {error}") from error
        try:
            return cls.from_dict(data)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Build from plain values, as YAML gives them; the inverse of `to_dict`."""
        values = _keys("data set description", data, cls)
        for name in ("context", "static", "outcomes"):
            items = _sequence(name, values.get(name, ()))
            values[name] = tuple(Column(**_keys(f"{name}[{i}]", item, Column)) for i, item in enumerate(items))
        values["channels"] = tuple(_sequence("channels", values["channels"]))
        if "immediate" in values:
            values["immediate"] = tuple(_sequence("immediate", values["immediate"]))
        values["reward"] = RewardSpec(**_keys("reward", values["reward"], RewardSpec))
        if "outcome_labels" in values:
            if not isinstance(values["outcome_labels"], Mapping):
                raise SpecError(f"outcome_labels: expected a mapping, got {values['outcome_labels']!r}")
            values["outcome_labels"] = dict(values["outcome_labels"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; the inverse of `from_dict`."""
        return cast(dict[str, Any], _plain(asdict(self)))

    def save(self, path: str | Path) -> None:
        """Write the description as YAML."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(text, encoding="utf-8")


def built_in() -> tuple[str, ...]:
    """Names of the data set descriptions that come with the package."""
    return tuple(sorted(p.stem for p in _BUILT_IN.glob("*.yaml")))


def _keys(where: str, data: object, cls: Any) -> dict[str, Any]:
    """`data` as keyword arguments of `cls`; every missing or unknown key is an error that lists the known ones."""
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: expected a mapping of fields, got {data!r}")
    known = {f.name: f for f in fields(cls)}
    unknown = [k for k in data if k not in known]
    if unknown:
        raise SpecError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(known)}")
    # A field without a default must be written down, even if its value is null or [].
    missing = [k for k, f in known.items() if k not in data and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise SpecError(f"{where}: missing field {missing[0]!r}")
    return dict(data)


def _sequence(where: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise SpecError(f"{where}: expected a list, got {value!r}")
    return value


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value

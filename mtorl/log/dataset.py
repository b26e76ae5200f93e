"""Describes a data set in a YAML file: the role and unit of each column, and how to treat a missing value.

`DatasetSpec.load("simulator")` reads a built-in description, and `DatasetSpec.load("my-log.yaml")` reads a file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator

from mtorl.log import messages
from mtorl.log.gain import Gain, GainOfSpec, Units
from mtorl.log.sources import TOUCHPOINT_ID, Conversions, FileFormat, Sources, is_remote
from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import FromList, StrictModel, Text, load_yaml, validated

Kind = Literal["numeric", "categorical"]
Missing = Literal["error", "zero", "unknown"]
PropensitySource = Literal["logged", "channel-frequency", "markov"]
Outcome = Literal["click", "conversion", "revenue", "cost"]

OUTCOMES: tuple[str, ...] = get_args(Outcome)
"""Outcomes that every log has. They are known only after the exposure. The description of a data set may add other
outcomes under `outcomes`."""

EVENTS = ("click", "conversion")
"""Outcomes that count only once for a touchpoint, even if they are reported several times. The values of all other
outcomes are added up."""

_KEYS = ("user_id", "timestamp", "campaign_id", "channel")
BASE_COLUMNS = (*_KEYS, "cost", "click", "conversion", "revenue", "propensity")
"""The first columns of the canonical touchpoint log, in this order. The context, static and additional outcome columns
follow."""

OWN = "touchpoints"
"""Name of the adapter that reads users' own logs."""

SIMULATOR = "simulator"
"""Name of the built-in data set that the simulator generates, and of its adapter."""

# Computed tables have these columns, too, so a description must not use them.
_RESERVED = {*BASE_COLUMNS, "step", "split", "event_timestamp", "created_timestamp", "collected", "row", "fault"}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_QUESTION = re.compile(r"^ *# CHECK (.*(?:\n *#       .*)*)$", re.MULTILINE)
_BUILT_IN = Path(__file__).parent / "datasets"


def free_name(name: str) -> str:
    """Return `name` if it is allowed as a column name, else `log_` and the name."""
    if not _IDENTIFIER.fullmatch(name) or name in _RESERVED or name.startswith("hist_"):
        return f"log_{name}"
    return name


class SpecError(InputError, ValueError):
    """Raised if the description of a data set is invalid."""


class Column(StrictModel):
    """A column that a data set adds: a context column (known before the decision), a user column, or an outcome."""

    name: Text
    """The column's name in the log: a letter, then letters, digits and _."""
    kind: Kind
    unit: str = ""
    """Unit of the values, for display in pages and reports; empty if there is none."""
    missing: Missing = "error"
    """How to treat a missing value. error: the row is invalid. zero: use 0.0. unknown: use null, which the model reads
    as the mean or as an unknown category."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name != free_name(name):
            raise ValueError(
                f"column {name!r}: a name starts with a letter, has only letters, digits and _, is no standard column "
                "of the log, and does not start with hist_"
            )
        return name

    @model_validator(mode="after")
    def _zero_is_a_number(self) -> Column:
        if self.kind == "categorical" and self.missing == "zero":
            raise ValueError(f"column {self.name!r}, missing: 'zero' is for numeric columns; use error or unknown")
        return self


class RewardSpec(StrictModel):
    """The reward that the model learns: r_t = MinMaxNorm(g_t - cost_weight * w_t), for gain g and cost w."""

    gain: GainOfSpec
    """The gain of an exposure: an outcome, or a weighted sum of several outcomes such as {click: 0.1, revenue: 1}.
    Weights must be above 0. Values of an outcome may be negative."""
    cost_weight: float = Field(0.0, ge=0)
    """How much reward a currency unit of cost takes away, in gain per currency unit (s in the paper)."""


class FeatureField(Column):
    """A field of a feature view. The model reads its newest value from before the decision."""

    missing: Missing = "unknown"
    """Value to use if the key is unknown, the row has expired or the field is null. unknown: null; zero: 0.0."""
    by_channel: bool = False
    """true: the field is a list with one number per channel, in the order of `channels`. Each number is an input of the
    model."""

    @model_validator(mode="after")
    def _nobody_answers_for_it(self) -> FeatureField:
        if self.missing == "error":
            raise ValueError(f"field {self.name!r}, missing: a feature store may lack a key; use zero or unknown")
        if self.by_channel and self.kind != "numeric":
            raise ValueError(f"field {self.name!r}, by_channel: the list must contain numbers; set kind: numeric")
        return self


class FeatureViewSpec(StrictModel):
    """Fields that the model reads from one feature view, which is built in or is your own Parquet file."""

    view: Text
    """Name of the feature view: the built-in user_channel or campaign_stats (features/README.md) or, with `source`, a
    new name."""
    fields: Annotated[tuple[FeatureField, ...], FromList]
    source: Text | None = None
    """Your own features: a Parquet file, or a folder of Parquet files, with one row per key and time. The path is
    relative to the folder of this description."""
    key: Literal["user_id", "campaign_id"] | None = None
    """Column of `source` with the key of each row. A decision reads the row of its user or of its campaign."""
    timestamp: Text = "timestamp"
    """Column of `source` with the time from which a row is valid. A decision reads the newest row that is valid before
    the decision."""
    created_timestamp: Text | None = None
    """Column of `source` with the time at which a row was written, if this can be later than `timestamp`. Decisions
    before that time do not see the row."""
    ttl_hours: float | None = Field(None, ge=0.001, le=100_000)
    """Age in hours at which a row of `source` expires. An expired row is not used. By default, rows do not expire."""

    @model_validator(mode="after")
    def _says_where_rows_come_from(self) -> FeatureViewSpec:
        if not _IDENTIFIER.fullmatch(self.view):
            raise ValueError(f"view {self.view!r}: a name starts with a letter and has only letters, digits and _")
        if not self.fields:
            raise ValueError(f"view {self.view!r}, fields: name at least one")
        if self.source is not None and self.key is None:
            raise ValueError(f"view {self.view!r}: missing field 'key'; set user_id or campaign_id")
        written = [name for name in ("key", "ttl_hours", "created_timestamp") if getattr(self, name) is not None]
        if self.source is None and written:
            raise ValueError(f"view {self.view!r}, {written[0]}: is only for a view with a `source`")
        return self


def _usable(channel: str) -> str:
    if channel == "*" or channel != channel.strip():
        raise ValueError(f"{channel!r} is not a usable name: '*' is reserved, and spaces at either end are not allowed")
    return channel


Channel = Annotated[Text, AfterValidator(_usable)]
Columns = Annotated[tuple[Column, ...], FromList]
Count = Annotated[int, Field(ge=1)]


class DatasetSpec(StrictModel):
    """The description of a data set: a log of touchpoints, its columns, and what the model should learn from it."""

    name: Text
    description: str = ""
    adapter: Text = OWN
    """Name of the converter from the raw file to the canonical log. With "touchpoints", only the names and the formats
    of columns may differ from the canonical log."""
    channels: Annotated[tuple[Channel, ...], FromList]
    """The channels, which are the model's possible actions. The model uses them in this order."""
    propensity: PropensitySource
    """Source of the probabilities with which the logged channels were chosen: a column of the log, or a model that
    estimates them."""
    file: FileFormat = FileFormat()
    """Format of the file: separator and decimal mark."""
    columns: Sources = Field(default_factory=dict)
    """Names of the columns in the file, if they differ from the canonical names, for example `user_id: uid`. `Source`
    has more options, such as units and constants."""
    conversions: Conversions | None = None
    """A second file, with outcomes that arrive after the touchpoint was logged."""
    context: Columns = ()
    """Context columns: values that are known before the decision, and may differ between the touchpoints of a user."""
    static: Columns = ()
    """Static columns: values that are the same for all touchpoints of a user."""
    segment: str | None = None
    """Name of the categorical static column with the user's segment. The incumbent policy draws channels with the same
    probabilities for all users of a segment."""
    reward: RewardSpec = RewardSpec.model_validate({"gain": "click"})
    currency: Text = "currency unit"
    """Currency of costs and revenue, for display. `outcome_labels` may give revenue another unit."""
    window: Count = 20
    """Number of a user's newest touchpoints that the model reads."""
    outcomes: Columns = ()
    """Additional outcomes. They are known only after the decision, so they can't be context. The gain, `immediate` and
    `timed` may use the numeric ones."""
    journey_gap_days: float = Field(30.0, gt=0)
    """Pause in days after which a new journey of the user begins. The model does not read touchpoints of earlier
    journeys."""
    max_touchpoints: Count = 10_000
    """Largest number of touchpoints of a user. A user with more is probably a bot, so only the first ones are used."""
    min_touchpoints: Count = 1
    """Smallest number of touchpoints of a user. If a user has fewer, all rows of this user are invalid."""
    immediate: Annotated[tuple[Text, ...], FromList] = ("click", "cost")
    """Outcomes that are known before the user's next touchpoint. Of earlier touchpoints, the model reads only these and
    the `timed` outcomes, because an outcome that is reported days later is not yet known when the model decides."""
    timed: Annotated[tuple[Text, ...], FromList] = ()
    """Outcomes whose arrival time is in the log, in a column such as `conversion_time`. Of an earlier touchpoint, the
    model reads only the outcomes that arrived before the decision."""
    outcome_hours: float = Field(0.0, ge=0)
    """Hours after a decision in which its outcomes may arrive. Estimates of policy values use only decisions that are
    older than this."""
    features: Annotated[tuple[FeatureViewSpec, ...], FromList] = ()
    """Stored features that the model reads in addition to the columns of the log."""
    outcome_labels: dict[Outcome, Text] = Field(default_factory=dict)
    """What click, conversion, revenue and cost mean in this data set, for display."""

    @field_validator("channels")
    @classmethod
    def _channels_differ(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        if len(channels) < 2 or len(set(channels)) != len(channels):
            raise ValueError(f"need at least two different names, got {list(channels)}")
        return channels

    @field_validator("immediate", "timed")
    @classmethod
    def _outcomes_differ(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(named)) != len(named):
            raise ValueError(f"an outcome is named twice in {list(named)}")
        return named

    @model_validator(mode="after")
    def _columns_fit(self) -> DatasetSpec:
        names = [c.name for c in (*self.context, *self.static, *self.outcomes, *self.feature_columns)]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            places = "context, static, outcomes" + ", features" * bool(self.features)
            raise ValueError(f"{places}: column {twice[0]!r} is declared twice")
        views = [feature.view for feature in self.features]
        if len({view.lower() for view in views}) != len(views):  # Feast ignores the case of view names
            raise ValueError(f"features: a view is named twice in {views}")
        if self.segment is not None and self.segment not in [c.name for c in self.static if c.kind == "categorical"]:
            raise ValueError(f"segment: {self.segment!r} is not a categorical static column")
        return self

    @model_validator(mode="after")
    def _outcomes_are_there(self) -> DatasetSpec:
        further = {column.name: column for column in self.outcomes if column.kind == "numeric"}
        if "cancel" in further:
            raise ValueError("outcomes: 'cancel' is reserved for reports of an ad that was not shown; use another name")
        *gains, _ = OUTCOMES
        for field, used, base in (
            ("reward.gain", self.reward.gain.names, gains),
            ("immediate", self.immediate, OUTCOMES),
            ("timed", self.timed, gains),  # a cost is known with its exposure
        ):
            if unknown := [name for name in used if name not in (*base, *further)]:
                raise ValueError(f"{field}: {unknown[0]!r} is not one of {', '.join((*base, *further))}")
            if gaps := [name for name in used if name in further and further[name].missing == "unknown"]:
                raise ValueError(f"{field}: {gaps[0]!r} must have a value for every row; write missing: zero, or error")
        if both := [name for name in self.timed if name in self.immediate]:
            raise ValueError(f"timed: {both[0]!r} is in `immediate`, too; remove it from one of the two")
        if taken := [name for name in map(outcome_time, self.timed) if name in self.log_columns]:
            raise ValueError(f"timed: {taken[0]!r} is a column of context, static or outcomes; rename that column")
        return self

    @model_validator(mode="after")
    def _sources_fit(self) -> DatasetSpec:
        later = self.conversions.outcomes if self.conversions else ()
        times = {"timestamp", *self.optional_columns} - {TOUCHPOINT_ID}
        for name, source in self.columns.items():
            if name not in (*self.log_columns, *self.optional_columns):
                known = ", ".join((*self.log_columns, *self.optional_columns))
                raise ValueError(f"columns: the log has no column {name!r}; it has {known}")
            if name in later or name in map(outcome_time, later):
                raise ValueError(f"columns.{name}: `conversions` has it, too; remove it from one of the two")
            source.check(name, number=name in self.numbers, time=name in times)
        outcomes = [name for name in self.outcome_kinds if name != "cost"]
        if unknown := [name for name in later if name not in outcomes]:
            there = ", ".join((TOUCHPOINT_ID, "user_id", "timestamp", "event_id", *outcomes))
            raise ValueError(f"conversions.columns: {unknown[0]!r} is not one of {there}")
        return self

    @property
    def simulated(self) -> bool:
        """Return whether the log comes from the simulator and not from real users."""
        return self.adapter == SIMULATOR

    @cached_property
    def window_outcomes(self) -> tuple[str, ...]:
        """Return the outcomes that a window contains for each touchpoint."""
        return tuple(dict.fromkeys((*OUTCOMES, *self.reward.gain.names, *self.seen_outcomes)))

    @property
    def seen_outcomes(self) -> tuple[str, ...]:
        """Return the outcomes of a user's previous touchpoint that the model sees."""
        return (*self.immediate, *self.timed)

    @cached_property
    def outcome_times(self) -> dict[str, str]:
        """Return, for each outcome in `timed`, the column with its arrival time."""
        return {name: outcome_time(name) for name in self.timed}

    @cached_property
    def outcome_kinds(self) -> tuple[str, ...]:
        """Return the names of the numeric outcomes, which can be reported for a decision."""
        return (*OUTCOMES, *(column.name for column in self.outcomes if column.kind == "numeric"))

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Return the names of all numeric columns of the log."""
        declared = (*self.context, *self.static)
        return frozenset((*self.outcome_kinds, "propensity", *(c.name for c in declared if c.kind == "numeric")))

    @cached_property
    def optional_columns(self) -> tuple[str, ...]:
        """Return the columns that a raw log may have in addition to `log_columns`."""
        declared = set(self.log_columns)
        times = [outcome_time(name) for name in self.outcome_kinds if name != "cost"]
        by_id = self.conversions is not None and self.conversions.key == TOUCHPOINT_ID
        return (*(name for name in times if name not in declared), *[TOUCHPOINT_ID] * by_id, "created_timestamp")

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Return the columns of the canonical touchpoint log, in order."""
        return (*BASE_COLUMNS, *(c.name for c in (*self.context, *self.static, *self.outcomes)))

    @cached_property
    def feature_columns(self) -> tuple[Column, ...]:
        """Return the columns for the fields in `features`, in the model's order."""
        fields = [field for view in self.features for field in view.fields]
        return tuple(
            Column(name=name, kind=field.kind, unit=field.unit, missing=field.missing)
            for field in fields
            for name in self.columns_of(field)
        )

    def columns_of(self, field: FeatureField) -> tuple[str, ...]:
        """Return the names of the columns for one field of a feature view."""
        if not field.by_channel:
            return (field.name,)
        return tuple(f"{field.name}_{re.sub('[^A-Za-z0-9_]', '_', channel)}" for channel in self.channels)

    @classmethod
    def load(cls, name_or_path: str | Path) -> DatasetSpec:
        """Read a built-in description by its name, or a YAML file by its path.

        Raises:
            SpecError: the description is invalid, or still contains a CHECK comment.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = _BUILT_IN / f"{name_or_path}.yaml"
        if not path.exists():
            raise SpecError(messages.UNKNOWN_DATASET(name=str(name_or_path), known=built_in()))
        spec = load_yaml(cls, path, "the data set description", SpecError)
        if questions := _QUESTION.findall(path.read_text(encoding="utf-8")):
            checks = [re.sub(r"\n *# *", " ", question) for question in questions]
            raise SpecError(messages.OPEN_CHECKS(file=path, count=len(checks), checks=checks))
        # A copy of the description in another folder must refer to the same files.
        changes: dict[str, Any] = {}
        if any(view.source for view in spec.features):
            features = (v.replace(source=_absolute(v.source, path)) if v.source else v for v in spec.features)
            changes["features"] = tuple(features)
        if spec.conversions:
            changes["conversions"] = spec.conversions.replace(source=_absolute(spec.conversions.source, path))
        return spec.replace(**changes) if changes else spec

    def of_canonical_log(self) -> DatasetSpec:
        """Return a copy of the description without the fields about raw files."""
        raw = self.columns or self.conversions or self.file != FileFormat()
        return self.replace(columns={}, conversions=None, file=FileFormat()) if raw else self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Create a description from plain values.

        Raises:
            SpecError: a value is invalid.
        """
        return validated(cls, data, SpecError)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values for YAML or JSON."""
        absent = {n for n in ("features", "columns", "outcome_hours", "timed", "conversions") if not getattr(self, n)}
        absent |= {"file"} if self.file == FileFormat() else set()
        short = self.model_dump(mode="json", include={"columns", "conversions"} - absent, exclude_defaults=True)
        return self.model_dump(mode="json", exclude=absent) | short

    def save(self, path: str | Path) -> None:
        """Write the description as YAML."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(text, encoding="utf-8")


def counted_gain(spec: DatasetSpec) -> Gain:
    """Return the gain of a data set with its units, for display."""
    unknown = spec.currency == DatasetSpec.model_fields["currency"].default
    money = Units().money if unknown else spec.currency
    label = spec.outcome_labels.get("revenue", spec.currency)
    # If a label contains the currency, such as "value of the purchase, EUR", the unit is the currency.
    outcomes = {"revenue": money if spec.currency in label else label}
    outcomes |= {column.name: f"{column.unit} of {column.name}" for column in spec.outcomes if column.unit}
    return dataclasses.replace(spec.reward.gain, units=Units(money, tuple(outcomes.items())))


def outcome_time(outcome: str) -> str:
    """Return the name of the column with an outcome's arrival time."""
    return f"{outcome}_time"


def _absolute(source: str, description: Path) -> str:
    return source if is_remote(source) else str((description.parent / source).resolve())


def built_in() -> tuple[str, ...]:
    """Return the names of the descriptions that come with the package."""
    return tuple(sorted(p.stem for p in _BUILT_IN.glob("*.yaml")))

"""Describes a data set in one small YAML file: the role and unit of each column, and how to treat a missing value.

    spec = DatasetSpec.load("simulator")            # built in: simulator, kuairand-sequence, criteo-sequence
    spec = DatasetSpec.load("my-log.yaml")          # your own, usually with `adapter: touchpoints`

Log validation, features, windows, model and serving know a data set's columns only from this description, so a new data
set needs one new file. The model artifact contains a copy of the description, which the server reads.
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
"""Outcomes that every log has, known only after the exposure. A description may name more under `outcomes`."""

EVENTS = ("click", "conversion")
"""Outcomes that count once for a touchpoint, even if reported several times; all others add up."""

_KEYS = ("user_id", "timestamp", "campaign_id", "channel")
BASE_COLUMNS = (*_KEYS, "cost", "click", "conversion", "revenue", "propensity")
"""The first columns of the canonical touchpoint log, in order; context, static and further outcome columns follow."""

OWN = "touchpoints"
"""Name of the adapter for the user's own logs."""

SIMULATOR = "simulator"
"""Name of the built-in data set that the simulator generates, and of its adapter."""

# Derived tables add columns with these names to those of the log, so a description must not use them.
_RESERVED = {*BASE_COLUMNS, "step", "split", "event_timestamp", "created_timestamp", "collected", "row", "fault"}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_QUESTION = re.compile(r"^ *# CHECK (.*(?:\n *#       .*)*)$", re.MULTILINE)
_BUILT_IN = Path(__file__).parent / "datasets"


def free_name(name: str) -> str:
    """Return `name` if a description may use it for a column; otherwise return it with the prefix `log_`."""
    if not _IDENTIFIER.fullmatch(name) or name in _RESERVED or name.startswith("hist_"):
        return f"log_{name}"
    return name


class SpecError(InputError, ValueError):
    """Raised if the description of a data set is invalid; the message names the field."""


class Column(StrictModel):
    """A context column (known before the decision), a static user column, or a further outcome."""

    name: Text
    """The column's name in the log: a letter, then letters, digits and _."""
    kind: Kind
    unit: str = ""
    """The unit that pages and reports show; empty if there is none."""
    missing: Missing = "error"
    """Treatment of a missing value. error: invalid row; zero: 0.0; unknown: null (read as mean or unknown category)."""

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
    """The learning signal: r_t = MinMaxNorm(g_t - cost_weight * w_t), gain g and cost w of one exposure."""

    gain: GainOfSpec
    """An outcome, or a weighted sum of several, such as {click: 0.1, revenue: 1}. Weights must be above 0; an outcome
    may be negative. See `mtorl.log.gain`."""
    cost_weight: float = Field(0.0, ge=0)
    """The paper's multiplier s, in gain per currency unit."""


class FeatureField(Column):
    """A field of a feature view. The model reads its newest value from before the decision."""

    missing: Missing = "unknown"
    """Value for an unknown key, an expired row or a null. unknown: null; zero: 0.0."""
    by_channel: bool = False
    """true: the field is a list with a number for each channel, in the order of `channels`; each is a model input."""

    @model_validator(mode="after")
    def _nobody_answers_for_it(self) -> FeatureField:
        if self.missing == "error":
            raise ValueError(f"field {self.name!r}, missing: a feature store may lack a key; use zero or unknown")
        if self.by_channel and self.kind != "numeric":
            raise ValueError(f"field {self.name!r}, by_channel: the list must contain numbers; set kind: numeric")
        return self


class FeatureViewSpec(StrictModel):
    """Fields that the model reads from a feature view, which is built in or your own Parquet file."""

    view: Text
    """Name of the view: user_channel or campaign_stats (features/README.md) or, with `source`, a new name."""
    fields: Annotated[tuple[FeatureField, ...], FromList]
    source: Text | None = None
    """Parquet file, or folder of parts, with one row for each key and time; relative to the folder of this file."""
    key: Literal["user_id", "campaign_id"] | None = None
    """Key column of `source`: a decision reads the row of its user or campaign."""
    timestamp: Text = "timestamp"
    """Column of `source`: the time from which a row is valid. A decision sees the newest row before it."""
    created_timestamp: Text | None = None
    """Column of `source`: when a row was written, if later than `timestamp`. Earlier decisions do not see the row."""
    ttl_hours: float | None = Field(None, ge=0.001, le=100_000)
    """A row of `source` that is older than this has expired."""

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
    """Description of one touchpoint log."""

    name: Text
    description: str = ""
    adapter: Text = OWN
    """Converter of the raw file to the canonical log. "touchpoints": only names and formats of columns may differ."""
    channels: Annotated[tuple[Channel, ...], FromList]
    """The actions, in the order that the model uses."""
    propensity: PropensitySource
    """Source of the logged channels' probabilities: a column of the log, or the model that estimates them."""
    file: FileFormat = FileFormat()
    """Format of the file: separator and decimal mark."""
    columns: Sources = Field(default_factory=dict)
    """Names of the log's columns in the file, if they differ: `user_id: uid`. See `Source` for more."""
    conversions: Conversions | None = None
    """A second file, with outcomes that arrive after the touchpoint was logged."""
    context: Columns = ()
    """Columns known before the decision, one value for each touchpoint."""
    static: Columns = ()
    """Columns with one value for each user."""
    segment: str | None = None
    """The categorical static column by which the incumbent policy segments users."""
    reward: RewardSpec = RewardSpec.model_validate({"gain": "click"})
    currency: Text = "currency unit"
    """Unit of cost, and of revenue unless `outcome_labels` names another."""
    window: Count = 20
    """Number of a user's latest touchpoints that the model sees."""
    outcomes: Columns = ()
    """Further outcomes, known only after the decision, so never context. The gain, `immediate` and `timed` may name
    numeric outcomes from this list."""
    journey_gap_days: float = Field(30.0, gt=0)
    """A longer pause between touchpoints starts a new journey; the model does not see earlier journeys."""
    max_touchpoints: Count = 10_000
    """Maximum touchpoints of a user. A user with more is probably a bot, and only the first ones are used."""
    min_touchpoints: Count = 1
    """Minimum touchpoints of a user. All rows of a user with fewer are invalid."""
    immediate: Annotated[tuple[Text, ...], FromList] = ("click", "cost")
    """Outcomes that are known before the user's next touchpoint. Of a previous touchpoint, the model sees only these
    and the `timed` ones, because an outcome that is reported days later is unknown when the model decides."""
    timed: Annotated[tuple[Text, ...], FromList] = ()
    """Outcomes whose time of arrival is in the log, in a column such as `conversion_time`. Of the previous touchpoint,
    the model sees only the outcomes that arrived before the decision."""
    outcome_hours: float = Field(0.0, ge=0)
    """Hours within which a decision's outcomes may arrive. Policy values use only decisions older than that."""
    features: Annotated[tuple[FeatureViewSpec, ...], FromList] = ()
    """Fields of feature views that the model reads in addition to the log's columns."""
    outcome_labels: dict[Outcome, Text] = Field(default_factory=dict)
    """Meaning of click, conversion, revenue and cost in this data set."""

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
        """Return whether the log comes from the simulator, so that its results do not apply to real users."""
        return self.adapter == SIMULATOR

    @cached_property
    def window_outcomes(self) -> tuple[str, ...]:
        """Return the outcomes that a window contains.

        These are `OUTCOMES`, the outcomes in the gain, and the outcomes that the model sees.
        """
        return tuple(dict.fromkeys((*OUTCOMES, *self.reward.gain.names, *self.seen_outcomes)))

    @property
    def seen_outcomes(self) -> tuple[str, ...]:
        """Return the outcomes that the model sees of a user's previous touchpoint."""
        return (*self.immediate, *self.timed)

    @cached_property
    def outcome_times(self) -> dict[str, str]:
        """Return, for each outcome in `timed`, the column that contains the time of its arrival."""
        return {name: outcome_time(name) for name in self.timed}

    @cached_property
    def outcome_kinds(self) -> tuple[str, ...]:
        """Return the names of the numeric outcomes. Only these can be reported for a decision."""
        return (*OUTCOMES, *(column.name for column in self.outcomes if column.kind == "numeric"))

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Return the names of all numeric columns of the log."""
        declared = (*self.context, *self.static)
        return frozenset((*self.outcome_kinds, "propensity", *(c.name for c in declared if c.kind == "numeric")))

    @cached_property
    def optional_columns(self) -> tuple[str, ...]:
        """Return the columns that a raw log may have in addition to `log_columns`.

        These are the times when outcomes arrived, the touchpoint id, and the time when a row arrived.
        """
        declared = set(self.log_columns)
        times = [outcome_time(name) for name in self.outcome_kinds if name != "cost"]
        by_id = self.conversions is not None and self.conversions.key == TOUCHPOINT_ID
        return (*(name for name in times if name not in declared), *[TOUCHPOINT_ID] * by_id, "created_timestamp")

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Return the names of all columns of the canonical touchpoint log, in order."""
        return (*BASE_COLUMNS, *(c.name for c in (*self.context, *self.static, *self.outcomes)))

    @cached_property
    def feature_columns(self) -> tuple[Column, ...]:
        """Return the columns that the fields in `features` become, in the order that the model uses.

        A field becomes one column or, with `by_channel`, one column for each channel.
        """
        fields = [field for view in self.features for field in view.fields]
        return tuple(
            Column(name=name, kind=field.kind, unit=field.unit, missing=field.missing)
            for field in fields
            for name in self.columns_of(field)
        )

    def columns_of(self, field: FeatureField) -> tuple[str, ...]:
        """Return the names of the columns that one field of a feature view becomes."""
        if not field.by_channel:
            return (field.name,)
        return tuple(f"{field.name}_{re.sub('[^A-Za-z0-9_]', '_', channel)}" for channel in self.channels)

    @classmethod
    def load(cls, name_or_path: str | Path) -> DatasetSpec:
        """Read a built-in description by its name, or a YAML file by its path.

        Raises:
            SpecError: the description is invalid, or contains a CHECK comment, which is a question that is still open.
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
        # The description may be copied to another folder, where it must still refer to the same files. So paths become
        # absolute.
        changes: dict[str, Any] = {}
        if any(view.source for view in spec.features):
            features = (v.replace(source=_absolute(v.source, path)) if v.source else v for v in spec.features)
            changes["features"] = tuple(features)
        if spec.conversions:
            changes["conversions"] = spec.conversions.replace(source=_absolute(spec.conversions.source, path))
        return spec.replace(**changes) if changes else spec

    def of_canonical_log(self) -> DatasetSpec:
        """Return the description of the canonical log: a copy without the fields that describe the raw log."""
        raw = self.columns or self.conversions or self.file != FileFormat()
        return self.replace(columns={}, conversions=None, file=FileFormat()) if raw else self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Create a description from plain values, as read from YAML. This is the inverse of `to_dict`.

        Raises:
            SpecError: a value is invalid; the message names the field.
        """
        return validated(cls, data, SpecError)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values for YAML or JSON. This is the inverse of `from_dict`."""
        absent = {n for n in ("features", "columns", "outcome_hours", "timed", "conversions") if not getattr(self, n)}
        absent |= {"file"} if self.file == FileFormat() else set()
        short = self.model_dump(mode="json", include={"columns", "conversions"} - absent, exclude_defaults=True)
        return self.model_dump(mode="json", exclude=absent) | short

    def save(self, path: str | Path) -> None:
        """Write the description as YAML."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(text, encoding="utf-8")


def counted_gain(spec: DatasetSpec) -> Gain:
    """Return the gain of a data set together with the units of its outcomes and money, for display."""
    unknown = spec.currency == DatasetSpec.model_fields["currency"].default
    money = Units().money if unknown else spec.currency
    label = spec.outcome_labels.get("revenue", spec.currency)
    # Revenue counts as money only if its label contains the currency, as in "value of the purchase, EUR".
    outcomes = {"revenue": money if spec.currency in label else label}
    outcomes |= {column.name: f"{column.unit} of {column.name}" for column in spec.outcomes if column.unit}
    return dataclasses.replace(spec.reward.gain, units=Units(money, tuple(outcomes.items())))


def outcome_time(outcome: str) -> str:
    """Return the name of the column that contains the time when an outcome arrived."""
    return f"{outcome}_time"


def _absolute(source: str, description: Path) -> str:
    """Return the absolute path of a file that a description refers to.

    An address in an object store is returned unchanged.
    """
    return source if is_remote(source) else str((description.parent / source).resolve())


def built_in() -> tuple[str, ...]:
    """Return the names of the descriptions that come with the package."""
    return tuple(sorted(p.stem for p in _BUILT_IN.glob("*.yaml")))

"""Defines the causal window: the information that the model gets for a decision.

A window is a sequence of tokens, the last of which belongs to the decision. Token t of a journey combines the
*previous* touchpoint with the *current* context (the paper's x_t, before its embedding):

    x_t = (a_{t-1}, outcomes_{t-1}, time_t, context_t, static user features, stored features_t)

time_t is the hour of the day, and the time since touchpoint t - 1. If an outcome has a time of arrival (`spec.timed`),
it is 0 in all tokens whose decision came before that time. Stored features are fields of the feature views in the data
set's description, with their newest values from before the decision. A server has stored features only for the current
decision, so only the last token of a window has them. In training, each token is a decision and has its own stored
features.

A window has the last n tokens. Two functions build it, and their results are bit-identical:

    WindowBatch.from_steps(steps, rows, spec)  offline: rows of a sorted log; vectorised
    WindowBatch.from_instances(items, spec)    online: the JSON that `instance_from_history` builds from stored history

`history.py` defines which touchpoints are in the history of a decision. If the history has k touchpoints, the window
has T = min(k + 1, n) tokens. If k < n, the first token is the start of the journey, and its previous outcomes are 0. If
k = n, the window begins later in the journey, and the context of the oldest touchpoint is left out.

Shape suffixes: B windows, N tokens of all windows one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log import columns as read
from mtorl.log.columns import Codes, Values, WindowError
from mtorl.log.dataset import DatasetSpec, FeatureField
from mtorl.log.times import DAY_US, HOUR_US
from mtorl.log.touchpoints import COLLECTED
from mtorl.runtime.message import Message
from mtorl.runtime.validation import short
from mtorl.window import messages
from mtorl.window.history import Timeline, history_slice, journey_gap_us

# Arrival time of an outcome that has not arrived.
_NEVER = np.iinfo(np.int64).max

HISTORY, STATIC = "user_history", "user_static"
"""Names of the Feast feature views with the inputs of a window: the user's history, and the user's static columns."""
PACKED = "history"
"""Name of the only field of the view HISTORY. Its format is defined in `mtorl.window.packed`."""
AD_DECISION = "ad_decision_v1"
"""Name of the Feast feature service for a decision. If the meaning of its features changes, the name must get a new
version."""

Instance = dict[str, Any]
"""A window as JSON object.

These fields are lists with one value per token: prev_channel (null at the start of the journey), prev_timestamp,
prev_click and the other earlier outcomes, and each column in context. These are single values: each column in static,
timestamp (of the decision) and, if the data set has stored features, each column in features. Times are in microseconds
since 1970.
"""


@dataclass(frozen=True)
class Targets:
    """The outcomes at each token of some windows, for training and evaluation only.

    Attributes:
        channel_N: Logged channel, as its position in spec.channels.
        outcomes: Outcomes by name (`spec.window_outcomes`).
        touchpoint_N: Row of the log with the token's touchpoint.
        valid_N: False if the window shows a touchpoint that was recorded after the token's decision.
        collected_N: Whether one of our own policies made the decision.
    """

    channel_N: Ints
    outcomes: dict[str, Floats]
    touchpoint_N: Ints
    valid_N: Bools
    collected_N: Bools

    def take(self, token_N: Ints) -> Targets:
        """Return the targets of some of the tokens."""
        return Targets(
            self.channel_N[token_N],
            read.take_each(self.outcomes, token_N),
            self.touchpoint_N[token_N],
            self.valid_N[token_N],
            self.collected_N[token_N],
        )


@dataclass(frozen=True)
class WindowBatch:
    """Windows of different lengths, stored as one array for each column, without padding.

    Attributes:
        length_B: Number of tokens of each window.
        prev_channel_N: Previous channel, as its position in spec.channels; len(spec.channels) at the start of a
            journey.
        prev_outcomes: Outcomes of the previous touchpoint, by name.
        time: hour_of_day and recency_hours of each token; recency_hours is NaN at the start of a journey.
        context: N values for each column.
        static: B values for each column.
        features: Stored features: N values for each column.
        row_N: Number of each token's window.
        step_N: Position of each token in its window, from 0.
    """

    length_B: Ints
    prev_channel_N: Ints
    prev_outcomes: dict[str, Floats]
    time: dict[str, Floats]
    context: dict[str, Values]
    static: dict[str, Values]
    features: dict[str, Values] = field(default_factory=dict)
    targets: Targets | None = None
    row_N: Ints = field(init=False, repr=False)
    step_N: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        row_N = np.repeat(np.arange(len(self.length_B)), self.length_B)
        step_N = np.arange(len(row_N))
        step_N -= np.repeat(np.cumsum(self.length_B) - self.length_B, self.length_B)
        object.__setattr__(self, "row_N", row_N)
        object.__setattr__(self, "step_N", step_N)

    def __len__(self) -> int:
        return len(self.length_B)

    def take(self, rows: Ints) -> WindowBatch:
        """Return the windows with the numbers `rows`, in this order."""
        length_B = self.length_B[rows]
        end_B = np.cumsum(length_B)
        token_N = np.repeat(np.cumsum(self.length_B)[rows] - end_B, length_B) + np.arange(length_B.sum())
        return WindowBatch(
            length_B,
            self.prev_channel_N[token_N],
            read.take_each(self.prev_outcomes, token_N),
            read.take_each(self.time, token_N),
            read.take_each(self.context, token_N),
            read.take_each(self.static, rows),
            read.take_each(self.features, token_N),
            None if self.targets is None else self.targets.take(token_N),
        )

    @classmethod
    def from_instances(cls, instances: Sequence[Instance], spec: DatasetSpec) -> WindowBatch:
        """Build windows from JSON, as a server does for each request.

        Raises:
            WindowError: An instance is malformed; the error has its `index`.
        """
        code = {name: i for i, name in enumerate(spec.channels)}
        start = len(spec.channels)
        lengths: list[int] = []
        channels: list[int] = []
        outcomes: dict[str, list[Any]] = {name: [] for name in spec.window_outcomes}
        before: list[Any] = []
        at: list[Any] = []
        context: dict[str, list[Any]] = {c.name: [] for c in spec.context}
        static: dict[str, list[Any]] = {c.name: [] for c in spec.static}
        features: dict[str, list[Any]] = {c.name: [] for c in spec.feature_columns}
        for i, item in enumerate(instances):
            try:
                previous = item["prev_channel"]
                length = len(previous)
                if not 1 <= length <= spec.window:
                    raise WindowError(f"instance {i}: {length} tokens; a window has 1 to {spec.window}", i)
                # Null marks the start of a journey, which only the first token can be.
                channels.append(start if previous[0] is None else code[previous[0]])
                channels.extend([code[name] for name in previous[1:]])
                lengths.append(length)
                times = read.json_list(item["prev_timestamp"], length, "prev_timestamp", i)
                before.extend(times)
                at.extend([*times[1:], item["timestamp"]])
                for name in outcomes:
                    outcomes[name].extend(read.json_list(item[f"prev_{name}"], length, f"prev_{name}", i))
                for name in context:
                    context[name].extend(read.json_list(item["context"][name], length, f"context.{name}", i))
                for name in static:
                    static[name].append(item["static"][name])
                for name in features:
                    features[name].extend([*[None] * (length - 1), item["features"][name]])
            except KeyError as error:
                raise WindowError(_absent(i, error.args[0], spec), i) from None
            except (TypeError, AttributeError):
                raise WindowError(messages.NO_INSTANCE(index=i, given=short(item)), i) from None
        length_B = np.array(lengths, dtype=np.int64)
        row_B = np.arange(len(lengths))
        row_N = np.repeat(row_B, length_B)
        channel_N = np.array(channels, dtype=np.int64)
        at_N = read.json_numbers(at, "timestamp", row_N, null=False)
        before_N = read.json_numbers(before, "prev_timestamp", row_N)
        # The previous touchpoint must not be later than the token. NaN fails this comparison, so it is rejected too.
        untimely_N = np.isnan(before_N) != (channel_N == start)
        untimely_N |= (channel_N != start) & ~(before_N <= at_N)
        if untimely_N.any():
            i = int(row_N[untimely_N.argmax()])
            raise WindowError(f"instance {i}: prev_timestamp needs one time for each touchpoint, oldest first", i)
        return cls(
            length_B,
            channel_N,
            {name: read.json_numbers(v, f"prev_{name}", row_N, null=False) for name, v in outcomes.items()},
            _clock(at_N, before_N),
            {c.name: read.json_values(c, context[c.name], f"context.{c.name}", row_N) for c in spec.context},
            {c.name: read.json_values(c, static[c.name], f"static.{c.name}", row_B) for c in spec.static},
            {c.name: read.json_values(c, features[c.name], f"features.{c.name}", row_N) for c in spec.feature_columns},
        )

    @classmethod
    def from_steps(cls, steps: pa.Table, rows: Ints | None, spec: DatasetSpec, targets: bool = False) -> WindowBatch:
        """Build the windows that end with the given rows of a log.

        Args:
            steps: Touchpoints grouped by user and sorted by time, without ties.
            rows: Rows of the log, in any order; None for all rows.
            targets: Whether to add the outcomes at each token, for training and evaluation.

        Raises:
            WindowError: A column is missing or has another type, the rows are not sorted, or a channel is unknown.
        """
        context, static = [c.name for c in spec.context], [c.name for c in spec.static]
        features = [c.name for c in spec.feature_columns]
        needed = {"user_id", "timestamp", "channel", *spec.window_outcomes, *spec.outcome_times.values()}
        needed |= {*context, *static, *features}
        absent = sorted(needed - set(steps.column_names))
        if absent:
            raise WindowError(messages.LACKS_COLUMNS(steps="steps", columns=absent))
        row_B = np.arange(len(steps)) if rows is None else np.asarray(rows, dtype=np.int64)
        if ((row_B < 0) | (row_B >= len(steps))).any():
            raise WindowError(messages.NO_SUCH_STEP(steps=len(steps)))
        timeline = Timeline.of(steps)
        tokens = timeline.tokens(row_B, spec.window, journey_gap_us(spec))

        outcomes = spec.window_outcomes
        column = {name: read.flat(steps[name]) for name in ("channel", *outcomes, *context, *static, *features)}
        channel_P = read.arrow_channels(column["channel"], spec.channels, "channel")
        outcomes_P = {name: read.arrow_numbers(column[name], name, null=False) for name in outcomes}
        columns = (*spec.context, *spec.static, *spec.feature_columns)
        values = {c.name: read.arrow_values(c, column[c.name], c.name) for c in columns}
        labels = None
        if targets:
            own = {name: values_P[tokens.own_N] for name, values_P in outcomes_P.items()}
            collected_P = read.arrow_flags(steps, COLLECTED)
            labels = Targets(channel_P[tokens.own_N], own, tokens.own_N, tokens.valid_N, collected_P[tokens.own_N])
        at_N = timeline.time_P[tokens.own_N]
        # At the start of a journey, `prev_N` is -1, which selects the appended value.
        before_N = np.append(timeline.time_P.astype(np.float64), np.nan)[tokens.prev_N]
        previous = {name: np.append(values_P, 0.0)[tokens.prev_N] for name, values_P in outcomes_P.items()}
        for name, column_name in spec.outcome_times.items():
            known_P = read.arrow_times(read.flat(steps[column_name]), column_name, null=_NEVER)
            previous[name] = np.where(np.append(known_P, _NEVER)[tokens.prev_N] < at_N, previous[name], 0.0)
        return cls(
            tokens.length_B,
            np.append(channel_P, len(spec.channels))[tokens.prev_N],
            previous,
            _clock(at_N.astype(np.float64), before_N),
            {name: read.take(values[name], tokens.own_N) for name in context},
            {name: read.take(values[name], row_B) for name in static},
            {name: _known_at(values[name], tokens.own_N, None if targets else tokens.length_B) for name in features},
            labels,
        )


def _known_at(values: Values, own_N: Ints, length_B: Ints | None) -> Values:
    """Return the values of a stored feature at the given tokens; with `length_B`, only at each window's last token."""
    of_tokens = read.take(values, own_N)
    if length_B is None:
        return of_tokens
    last_N = np.zeros(len(own_N), dtype=np.bool_)
    last_N[np.cumsum(length_B) - 1] = True
    if isinstance(of_tokens, Codes):
        return Codes(np.where(last_N, of_tokens.codes, -1), of_tokens.values)
    return np.where(last_N, of_tokens, np.nan)


def _clock(at_N: Floats, before_N: Floats) -> dict[str, Floats]:
    return {"hour_of_day": at_N % DAY_US / HOUR_US, "recency_hours": (at_N - before_N) / HOUR_US}


def history_columns(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the columns of a user's history, except hist_timestamp: lists with one value per touchpoint."""
    names = ("channel", *spec.window_outcomes, *spec.outcome_times.values(), *(c.name for c in spec.context))
    return tuple(f"hist_{name}" for name in names)


def outcome_columns(spec: DatasetSpec) -> Mapping[str, float]:
    """Return the history columns that contain outcomes, with their values before an outcome arrives."""
    times = dict.fromkeys(spec.outcome_times.values(), math.nan)
    return {f"hist_{name}": value for name, value in {**dict.fromkeys(spec.window_outcomes, 0.0), **times}.items()}


def history_types(spec: DatasetSpec) -> dict[str, Literal["float64", "string"]]:
    """Return the columns of a user's history with their types, hist_timestamp first."""
    texts = {"hist_channel", *(f"hist_{c.name}" for c in spec.context if c.kind == "categorical")}
    names = dict.fromkeys(("hist_timestamp", *history_columns(spec)))
    return {name: "string" if name in texts else "float64" for name in names}


def instance_from_history(
    history: Mapping[str, Any],
    context: Mapping[str, Any],
    static: Mapping[str, Any],
    spec: DatasetSpec,
    at: float,
    stored: Mapping[str, Any] | None = None,
) -> Instance:
    """Build the window of a decision as JSON, from the user's stored history.

    Args:
        history: The user's hist_* lists, oldest first, with hist_timestamp in microseconds since 1970. For an unknown
            user, lists are missing or null.
        at: Time of the decision, microseconds since 1970.
        stored: Fields of feature views from the feature store.

    Raises:
        WindowError: Lists differ in length, times are missing or not in order, or a required context value is missing.
    """
    columns = {name: read.as_list(history.get(name)) for name in history_columns(spec)}
    times = read.as_json(read.as_list(history.get("hist_timestamp")))
    k = len(columns["hist_channel"])
    for name, values in (*columns.items(), ("hist_timestamp", times)):
        if len(values) != k:
            raise WindowError(messages.HISTORY_LENGTH(column=name, length=len(values), channels=k))
    n = spec.window
    visible = history_slice(times, at, n, journey_gap_us(spec))
    columns = {name: values[visible] for name, values in columns.items()}
    k = len(columns["hist_channel"])
    begins = k < n
    times = times[visible]
    outcomes = {name: read.as_json(columns[f"hist_{name}"]) for name in spec.window_outcomes}
    for name, column_name in spec.outcome_times.items():
        # A token sees an outcome only if it arrived before that token's decision, as in training.
        known = zip(outcomes[name], read.as_json(columns[f"hist_{column_name}"]), [*times, at][1:], strict=True)
        outcomes[name] = [0.0 if when is None or when >= decided else value for value, when, decided in known]
    instance: Instance = {
        "timestamp": at,
        "prev_channel": [None] * begins + columns["hist_channel"],
        "prev_timestamp": [None] * begins + times,
        **{f"prev_{name}": [0.0] * begins + values for name, values in outcomes.items()},
        "context": {},
        "static": {c.name: read.as_json([static.get(c.name)])[0] for c in spec.static},
    }
    for column in spec.context:
        now = read.as_json([context.get(column.name)])[0]
        if now is None and column.missing == "error":
            raise WindowError(messages.NO_FIELD(where="context", field=column.name))
        now = 0.0 if now is None and column.missing == "zero" else now
        instance["context"][column.name] = [*read.as_json(columns[f"hist_{column.name}"][k == n :]), now]
    if spec.features:
        instance["features"] = stored_features(stored or {}, spec)
    return instance


def _absent(index: int, key: object, spec: DatasetSpec) -> Message:
    fields = {"timestamp", "prev_channel", "prev_timestamp", "context", "static", "features"}
    fields |= {f"prev_{outcome}" for outcome in spec.window_outcomes}
    fields |= {c.name for c in (*spec.context, *spec.static, *spec.feature_columns)}
    if key in fields:
        return messages.NO_FIELD(where=f"instance {index}", field=key)
    return messages.NO_CHANNEL(index=index, channel=key, known=spec.channels)


def stored_features(stored: Mapping[str, Any], spec: DatasetSpec) -> dict[str, Any]:
    """Convert fields from the feature store to the stored features of a decision, by name.

    Raises:
        WindowError: A field with one value for each channel has another number of values.
    """
    values: dict[str, Any] = {}
    for each in (each for view in spec.features for each in view.fields):
        names, value = spec.columns_of(each), stored.get(each.name)
        found = ([None] * len(names) if value is None else list(value)) if each.by_channel else [value]
        if len(found) != len(names):
            raise WindowError(messages.PER_CHANNEL(field=each.name, values=len(found), channels=len(names)))
        values |= {name: _or_missing(one, each) for name, one in zip(names, found, strict=True)}
    return values


def _or_missing(value: Any, field: FeatureField) -> Any:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return 0.0 if field.missing == "zero" else None
    return value

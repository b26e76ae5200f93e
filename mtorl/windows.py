"""The causal window: the one definition of what the model may see at a decision.

Token t of a journey pairs the *previous* touchpoint with the *present* context (the paper's x_t, before its embedding):

    x_t = (a_{t-1}, outcomes_{t-1}, time_t, context_t, static user features)

where time_t is the hour of the day and how long ago touchpoint t - 1 was.

A window holds the last n tokens. Two doors lead into the same `WindowBatch`, and so to the same numbers, bit for bit:

    WindowBatch.from_steps(steps, rows, spec)  offline: rows of a sorted log; vectorised
    WindowBatch.from_instances(items, spec)    online: the JSON that `instance_from_history` makes of a stored history

What counts as the past of a decision is defined in `past.py`. With k past touchpoints a window has T = min(k + 1, n)
tokens. If k < n, its first token starts the journey: there is no previous touchpoint, so its outcomes are 0. If k = n,
the window begins midway and the oldest context is dropped.

Shape suffixes: B windows, N tokens of all windows one after the other, T padded window length, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from mtorl import columns as read
from mtorl.columns import Codes, Values, WindowError
from mtorl.dataset import OUTCOMES, DatasetSpec
from mtorl.past import Timeline, cut, gap_us
from mtorl.request_features import request_features

__all__ = [
    "Codes",
    "Encoder",
    "Instance",
    "Targets",
    "WindowBatch",
    "WindowError",
    "history_columns",
    "instance_from_history",
]

# A category of fewer uses in training is read like an unknown one, which so is learned as well. Small logs keep more.
_RARE, _RARE_SHARE = 10, 0.001

Instance = dict[str, Any]
"""One window as JSON: prev_channel (null = start), prev_timestamp, prev_click, ..., context {column: [..T]}, each with
one value a token; static {column: value}; timestamp, that of the decision. Times are microseconds since 1970."""


@dataclass(frozen=True)
class Targets:
    """What happened at each token, the window's last token included; for training and evaluation only.

    A window holds what was known at its end. If a touchpoint arrived late, tokens that were decided on before it came
    have it in their past all the same: they are what no decision ever saw, and teach nothing. `valid_N` leaves them
    out. The last token of a window is always valid.
    """

    channel_N: NDArray[np.int64]
    outcomes: dict[str, NDArray[np.float64]]  # click, conversion, revenue, cost
    touch_N: NDArray[np.int64]  # the touchpoint that it is about, as a row of the steps
    valid_N: NDArray[np.bool_]


@dataclass(frozen=True)
class WindowBatch:
    """Windows of unequal length, stored column by column without padding."""

    length_B: NDArray[np.int64]
    prev_channel_N: NDArray[np.int64]  # position in spec.channels; len(spec.channels) = start of the journey
    prev_outcomes: dict[str, NDArray[np.float64]]  # click, conversion, revenue, cost of the previous touchpoint
    time: dict[str, NDArray[np.float64]]  # hour_of_day, recency_hours (NaN at the start of a journey) of each token
    context: dict[str, Values]  # N values a column
    static: dict[str, Values]  # B values a column
    targets: Targets | None = None
    row_N: NDArray[np.int64] = field(init=False, repr=False)  # the window that each token belongs to
    step_N: NDArray[np.int64] = field(init=False, repr=False)  # 0-based place of the token in its window

    def __post_init__(self) -> None:
        row_N = np.repeat(np.arange(len(self.length_B)), self.length_B)
        step_N = np.arange(len(row_N))
        step_N -= np.repeat(np.cumsum(self.length_B) - self.length_B, self.length_B)
        object.__setattr__(self, "row_N", row_N)
        object.__setattr__(self, "step_N", step_N)

    def __len__(self) -> int:
        return len(self.length_B)

    def take(self, rows: NDArray[np.int64]) -> WindowBatch:
        """Some of the windows, in the order of `rows`."""
        length_B = self.length_B[rows]
        end_B = np.cumsum(length_B)
        token_N = np.repeat(np.cumsum(self.length_B)[rows] - end_B, length_B) + np.arange(length_B.sum())
        happened = self.targets
        if happened is not None:
            outcomes = {name: values[token_N] for name, values in happened.outcomes.items()}
            touch_N, valid_N = happened.touch_N[token_N], happened.valid_N[token_N]
            happened = Targets(happened.channel_N[token_N], outcomes, touch_N, valid_N)
        return WindowBatch(
            length_B,
            self.prev_channel_N[token_N],
            {name: values[token_N] for name, values in self.prev_outcomes.items()},
            {name: values[token_N] for name, values in self.time.items()},
            {name: read.take(values, token_N) for name, values in self.context.items()},
            {name: read.take(values, rows) for name, values in self.static.items()},
            happened,
        )

    @classmethod
    def from_instances(cls, instances: Sequence[Instance], spec: DatasetSpec) -> WindowBatch:
        """Build from the JSON form, for small batches on a server.

        Raises:
            WindowError: an instance is malformed or names an unknown channel; `.index` says which.
        """
        code = {name: i for i, name in enumerate(spec.channels)}
        start = len(spec.channels)
        lengths: list[int] = []
        channels: list[int] = []
        outcomes: dict[str, list[Any]] = {name: [] for name in OUTCOMES}
        before: list[Any] = []
        at: list[Any] = []
        context: dict[str, list[Any]] = {c.name: [] for c in spec.context}
        static: dict[str, list[Any]] = {c.name: [] for c in spec.static}
        for i, item in enumerate(instances):
            try:
                previous = item["prev_channel"]
                length = len(previous)
                if not 1 <= length <= spec.window:
                    raise WindowError(f"instance {i}: {length} tokens; a window has 1 to {spec.window}", i)
                # Only the first token may be the start of the journey.
                channels.append(start if previous[0] is None else code[previous[0]])
                channels.extend([code[name] for name in previous[1:]])
                lengths.append(length)
                times = read.json_list(item["prev_timestamp"], length, "prev_timestamp", i)
                before.extend(times)
                at.extend([*times[1:], item["timestamp"]])
                for name in OUTCOMES:
                    outcomes[name].extend(read.json_list(item[f"prev_{name}"], length, f"prev_{name}", i))
                for name in context:
                    context[name].extend(read.json_list(item["context"][name], length, f"context.{name}", i))
                for name in static:
                    static[name].append(item["static"][name])
            except KeyError as error:
                raise WindowError(f"instance {i}: {_absent(error.args[0], spec)}", i) from None
            except (TypeError, AttributeError):
                raise WindowError(f"instance {i}: expected an object with lists, got {read.short(item)}", i) from None
        length_B = np.array(lengths, dtype=np.int64)
        row_B = np.arange(len(lengths))
        row_N = np.repeat(row_B, length_B)
        channel_N = np.array(channels, dtype=np.int64)
        at_N = read.json_numbers(at, "timestamp", row_N, null=False)
        before_N = read.json_numbers(before, "prev_timestamp", row_N)
        # What is not a number here, or is not before, fails the second comparison.
        untimely_N = np.isnan(before_N) != (channel_N == start)
        untimely_N |= (channel_N != start) & ~(before_N <= at_N)
        if untimely_N.any():
            i = int(row_N[untimely_N.argmax()])
            raise WindowError(f"instance {i}: prev_timestamp is not one time a touchpoint, oldest first", i)
        return cls(
            length_B,
            channel_N,
            {name: read.json_numbers(v, f"prev_{name}", row_N, null=False) for name, v in outcomes.items()},
            _clock(at_N, before_N),
            {c.name: read.json_values(c, context[c.name], f"context.{c.name}", row_N) for c in spec.context},
            {c.name: read.json_values(c, static[c.name], f"static.{c.name}", row_B) for c in spec.static},
        )

    @classmethod
    def from_steps(
        cls, steps: pa.Table, rows: NDArray[np.int64] | None, spec: DatasetSpec, targets: bool = False
    ) -> WindowBatch:
        """Build from a log: a flat, sorted table with one row per touchpoint.

        Args:
            steps: Whole users one after the other, each in the order of time, without ties. Columns user_id, timestamp,
                channel, click, conversion, revenue, cost, all context and static columns, and created_timestamp if rows
                may have arrived late.
            rows: The touchpoints whose windows are wanted, as rows of `steps`, in any order; None means all of them.
            spec: Description of the data set.
            targets: Also say what happened at each token; see `Targets`.

        Raises:
            WindowError: a column is missing or of another type, rows are not sorted, or a channel is unknown.
        """
        context, static = [c.name for c in spec.context], [c.name for c in spec.static]
        absent = sorted({"user_id", "timestamp", "channel", *OUTCOMES, *context, *static} - set(steps.column_names))
        if absent:
            raise WindowError(f"steps: missing columns {', '.join(absent)}")
        row_B = np.arange(len(steps)) if rows is None else np.asarray(rows, dtype=np.int64)
        if ((row_B < 0) | (row_B >= len(steps))).any():
            raise WindowError(f"rows: there are only {len(steps)} steps, 0 to {len(steps) - 1}")
        timeline = Timeline.of(steps)
        tokens = timeline.tokens(row_B, spec.window, gap_us(spec))

        column = {name: read.flat(steps[name]) for name in ("channel", *OUTCOMES, *context, *static)}
        channel_P = read.arrow_channels(column["channel"], spec.channels, "channel")
        outcomes_P = {name: read.arrow_numbers(column[name], name, null=False) for name in OUTCOMES}
        values = {c.name: read.arrow_values(c, column[c.name], c.name) for c in (*spec.context, *spec.static)}
        happened = None
        if targets:
            own = {name: values_P[tokens.own_N] for name, values_P in outcomes_P.items()}
            happened = Targets(channel_P[tokens.own_N], own, tokens.own_N, tokens.honest_N)
        # Row -1 is what a token reads that starts a journey.
        before_N = np.append(timeline.time_P.astype(np.float64), np.nan)[tokens.prev_N]
        return cls(
            tokens.length_B,
            np.append(channel_P, len(spec.channels))[tokens.prev_N],
            {name: np.append(values_P, 0.0)[tokens.prev_N] for name, values_P in outcomes_P.items()},
            _clock(timeline.time_P[tokens.own_N].astype(np.float64), before_N),
            {name: read.take(values[name], tokens.own_N) for name in context},
            {name: read.take(values[name], row_B) for name in static},
            happened,
        )


def _clock(at_N: NDArray[np.float64], before_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {name: np.asarray(value_N) for name, value_N in request_features(at_N, before_N).items()}


def history_columns(spec: DatasetSpec) -> tuple[str, ...]:
    """Names of the list columns that hold a user's past touchpoints, oldest first; hist_timestamp comes on top."""
    return ("hist_channel", *(f"hist_{name}" for name in OUTCOMES), *(f"hist_{c.name}" for c in spec.context))


def instance_from_history(
    history: Mapping[str, Any], context: Mapping[str, Any], static: Mapping[str, Any], spec: DatasetSpec, at: float
) -> Instance:
    """The window of one decision, as JSON.

    Args:
        history: The user's hist_* lists, oldest first, as the feature store returns them, with hist_timestamp in
            microseconds since 1970. NaN, and "" in a list of text, are null. An unknown user has no lists, or nulls. It
            may hold more than the past, which is the newest `spec.window` touchpoints before `at`, back to the first
            pause that ends a journey.
        context: What is known of the present opportunity. Further entries are ignored.
        static: The user's features; a missing one is null, as for an unknown user.
        spec: Description of the data set.
        at: When the decision is made, microseconds since 1970.

    Raises:
        WindowError: lists differ in length, times are missing or in disorder, or a context value that must be there is
            missing.
    """
    columns = {name: read.as_list(history.get(name)) for name in history_columns(spec)}
    times = read.as_json(read.as_list(history.get("hist_timestamp")))
    k = len(columns["hist_channel"])
    for name, values in (*columns.items(), ("hist_timestamp", times)):
        if len(values) != k:
            raise WindowError(f"history: {name} has {len(values)} touchpoints, hist_channel {k}")
    n = spec.window
    past = cut(times, at, n, gap_us(spec))
    columns = {name: values[past] for name, values in columns.items()}
    k = len(columns["hist_channel"])
    begins = k < n
    instance: Instance = {
        "timestamp": at,
        "prev_channel": [None] * begins + columns["hist_channel"],
        "prev_timestamp": [None] * begins + times[past],
        **{f"prev_{name}": [0.0] * begins + read.as_json(columns[f"hist_{name}"]) for name in OUTCOMES},
        "context": {},
        "static": {c.name: read.as_json([static.get(c.name)])[0] for c in spec.static},
    }
    for column in spec.context:
        now = read.as_json([context.get(column.name)])[0]
        if now is None and column.missing == "error":
            raise WindowError(f"context: {column.name} is missing")
        now = 0.0 if now is None and column.missing == "zero" else now
        instance["context"][column.name] = [*read.as_json(columns[f"hist_{column.name}"][k == n :]), now]
    return instance


@dataclass(frozen=True)
class Slot:
    """Where a column's numbers come from and how they are scaled; part of an `Encoder`."""

    name: str
    source: str  # "outcome" (of the touchpoint before), "time", "context" or "static"
    kind: str  # "numeric", "categorical" or "hour" (of the day)
    mean: float = 0.0
    std: float = 1.0
    scale: float = 0.0  # above 0: the mean and std are those of asinh(value / scale)
    values: tuple[str, ...] = ()  # known categories; one more place follows them for everything else

    @property
    def width(self) -> int:
        """Numbers in a token."""
        return {"numeric": 1, "hour": 2}.get(self.kind, len(self.values) + 1)

    def scores(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers of the column as the model reads them."""
        values = _asinh(values, self.scale) if self.scale else values
        return np.nan_to_num(np.clip((values - self.mean) / self.std, -5.0, 5.0), nan=0.0)


@dataclass(frozen=True)
class Encoder:
    """Numbers for the model: normalisation statistics, vocabularies and the reward's scale, all from training data.

    A token is concat(onehot(a_{t-1}) over the channels and "start", r_{t-1}, one number per immediate outcome of the
    touchpoint before, the time, one block per context and static column). r_{t-1}, too, is made of immediate outcomes
    alone. Numeric columns are z-scores clipped to +-5 with null = 0; categorical ones are one-hot with a place for what
    training has seen rarely or never. Outcomes and the pause since the touchpoint before are z-scores of
    asinh(value / scale), which tells small amounts apart as well as large ones; the hour is a point on a circle.
    """

    channels: tuple[str, ...]
    window: int
    gain: str
    cost_weight: float
    reward_min: float  # of gain - cost_weight * cost
    reward_max: float
    slots: tuple[Slot, ...]
    segment: str | None

    @classmethod
    def fit(cls, batch: WindowBatch, spec: DatasetSpec) -> Encoder:
        """Take the statistics from a batch of training windows (with targets, its last touchpoints count as well)."""
        seen = batch.prev_channel_N < len(spec.channels)
        happened = {name: values_N[seen] for name, values_N in batch.prev_outcomes.items()}
        if batch.targets is not None:
            happened = {name: np.append(some, batch.targets.outcomes[name]) for name, some in happened.items()}
        slots = [_amount_slot(name, "outcome", happened[name]) for name in spec.immediate]
        slots.append(Slot("hour_of_day", "time", "hour"))
        pause = batch.time["recency_hours"]
        slots.append(_amount_slot("recency_hours", "time", pause[np.isfinite(pause)]))
        for source, columns, held in (("context", spec.context, batch.context), ("static", spec.static, batch.static)):
            for column in columns:
                values = held[column.name]
                if isinstance(values, Codes):
                    uses = np.bincount(values.codes[values.codes >= 0], minlength=len(values.values))
                    least = max(1, min(_RARE, _RARE_SHARE * len(values.codes)))
                    used = [value for value, n in zip(values.values, uses, strict=True) if n >= least]
                    slots.append(Slot(column.name, source, "categorical", values=tuple(sorted(used))))
                else:
                    finite = values[np.isfinite(values)]
                    mean = float(finite.mean()) if finite.size else 0.0
                    std = float(finite.std()) if finite.size else 0.0
                    slots.append(Slot(column.name, source, "numeric", mean, std if std > 0 else 1.0))
        net = happened[spec.reward.gain] - spec.reward.cost_weight * happened["cost"]
        low, high = (float(net.min()), float(net.max())) if net.size else (0.0, 1.0)
        return cls(
            spec.channels, spec.window, spec.reward.gain, spec.reward.cost_weight, low, high, tuple(slots), spec.segment
        )

    @property
    def dim(self) -> int:
        """D, numbers in a token."""
        return len(self.channels) + 2 + sum(slot.width for slot in self.slots)

    def encode(self, batch: WindowBatch) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """x_BTD, padded with zeros on the right to the window length, and length_B."""
        x_BTD = np.zeros((len(batch), self.window, self.dim), dtype=np.float32)
        x_PD = x_BTD.reshape(-1, self.dim)
        place_N = batch.row_N * self.window + batch.step_N
        start = len(self.channels)
        x_PD[place_N, batch.prev_channel_N] = 1.0
        begins_N = batch.prev_channel_N == start
        x_PD[place_N, start + 1] = np.where(begins_N, 0.0, self.previous_reward(batch))
        at = start + 2
        held: dict[str, Mapping[str, Values]] = {
            "outcome": batch.prev_outcomes,
            "time": batch.time,
            "context": batch.context,
            "static": batch.static,
        }
        for slot in self.slots:
            values = held[slot.source][slot.name]
            if isinstance(values, Codes):
                column = _places(slot, values)
                x_PD[place_N, at + (column[batch.row_N] if slot.source == "static" else column)] = 1.0
            elif slot.kind == "hour":
                angle_N = values * (2 * np.pi / 24)
                x_PD[place_N, at], x_PD[place_N, at + 1] = np.sin(angle_N), np.cos(angle_N)
            else:
                score = slot.scores(values)
                score = np.where(begins_N, 0.0, score) if slot.source == "outcome" else score
                x_PD[place_N, at] = score[batch.row_N] if slot.source == "static" else score
            at += slot.width
        return x_BTD, batch.length_B

    @property
    def immediate(self) -> tuple[str, ...]:
        """Outcomes of the touchpoint before that a model may see."""
        return tuple(slot.name for slot in self.slots if slot.source == "outcome")

    def previous_reward(self, batch: WindowBatch) -> NDArray[np.float64]:
        """r_{t-1} of each token as far as it is known at once; of no meaning where a journey starts."""
        gain_N, cost_N = (batch.prev_outcomes[name] * (name in self.immediate) for name in (self.gain, "cost"))
        return self.reward(gain_N, cost_N)

    def reward(self, gain: ArrayLike, cost: ArrayLike) -> NDArray[np.float64]:
        """The label MinMaxNorm(g - s w) in [0, 1], with the extremes of the training data."""
        net = np.asarray(gain, dtype=np.float64) - self.cost_weight * np.asarray(cost, dtype=np.float64)
        return np.clip((net - self.reward_min) / self._span, 0.0, 1.0)

    def unreward(self, reward: ArrayLike, cost: ArrayLike) -> NDArray[np.float64]:
        """The gain (clicks, conversions or currency units) behind a reward at a cost: the inverse of `reward`."""
        scaled = np.asarray(reward, dtype=np.float64) * self._span + self.reward_min
        return scaled + self.cost_weight * np.asarray(cost, dtype=np.float64)

    def targets(self, batch: WindowBatch) -> dict[str, NDArray[Any]]:
        """Padded labels: channel_BT (int64), reward_BT and cost_BT (float32); -1, 0 and 0 at padding.

        Tokens without a valid target (see `Targets`) look like padding.
        """
        if batch.targets is None:
            raise WindowError("this batch was built without targets")
        valid_N = batch.targets.valid_N
        place = (batch.row_N[valid_N], batch.step_N[valid_N])
        shape = (len(batch), self.window)
        outcomes = {name: values_N[valid_N] for name, values_N in batch.targets.outcomes.items()}
        channel_BT = np.full(shape, -1, dtype=np.int64)
        reward_BT, cost_BT = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        channel_BT[place] = batch.targets.channel_N[valid_N]
        reward_BT[place] = self.reward(outcomes[self.gain], outcomes["cost"])
        cost_BT[place] = outcomes["cost"]
        return {"channel_BT": channel_BT, "reward_BT": reward_BT, "cost_BT": cost_BT}

    def segment_slice(self) -> tuple[int, int] | None:
        """Start and stop of the segment's one-hot in a token (its last place is unknown), or None without a segment."""
        at = len(self.channels) + 2
        for slot in self.slots:
            if slot.name == self.segment:
                return at, at + slot.width
            at += slot.width
        return None

    def segment_of(self, batch: WindowBatch) -> NDArray[np.int64]:
        """Place of each window's segment in that one-hot; 0 without a segment."""
        slot = next((slot for slot in self.slots if slot.name == self.segment), None)
        return np.zeros(len(batch), dtype=np.int64) if slot is None else _places(slot, batch.static[slot.name])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; floats survive the round trip exactly."""
        data = asdict(self)
        data["slots"] = [{**slot, "values": list(slot["values"])} for slot in data["slots"]]
        return {**data, "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Encoder:
        """The inverse of `to_dict`."""
        slots = tuple(Slot(**{**slot, "values": tuple(slot["values"])}) for slot in data["slots"])
        return cls(**{**data, "channels": tuple(data["channels"]), "slots": slots})

    @property
    def _span(self) -> float:
        return self.reward_max - self.reward_min or 1.0


def _asinh(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # an absurd amount beside a tiny scale is still a number
        return np.arcsinh(np.clip(values / scale, -1e300, 1e300))


def _places(slot: Slot, values: Values) -> NDArray[np.int64]:
    """Where in a categorical slot's one-hot each value stands."""
    assert isinstance(values, Codes)
    known = {value: i for i, value in enumerate(slot.values)}
    # Null is code -1, which finds the last place of the table: unknown.
    table = np.array([known.get(v, len(known)) for v in values.values] + [len(known)], dtype=np.int64)
    return table[values.codes]


def _amount_slot(name: str, source: str, values: NDArray[np.float64]) -> Slot:
    """How an amount of no fixed size is scaled, from its values in training."""
    amounts = np.abs(values[values != 0])
    scale = float(np.quantile(amounts, 0.1)) if amounts.size else 1.0
    scaled = _asinh(values, scale) if values.size else np.zeros(1)
    return Slot(name, source, "numeric", float(scaled.mean()), float(scaled.std()) or 1.0, scale=scale)


def _absent(key: object, spec: DatasetSpec) -> str:
    known = {"timestamp", "prev_channel", "prev_timestamp", "context", "static", *(f"prev_{o}" for o in OUTCOMES)}
    known |= {c.name for c in (*spec.context, *spec.static)}
    if key in known:
        return f"{key} is missing"
    return f"unknown channel {key!r} in prev_channel; known: {', '.join(spec.channels)}"

"""Encodes windows as arrays of numbers for the model, with statistics from training data only.

Shape suffixes: B windows, N tokens of all windows one after the other, T padded window length, P = B T positions in
x_BTD, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log.columns import Codes, Values, WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.gain import Gain
from mtorl.window.on_demand import Windows, in_chunks
from mtorl.window.window import WindowBatch

# A category counts as "unknown" if it is in fewer than 10 training tokens and in less than 0.1 % of them.
_RARE, _RARE_SHARE = 10, 0.001


@dataclass(frozen=True)
class Slot:
    """Describes how one column of a window becomes `width` numbers of a token.

    Attributes:
        source: "outcome", "time", "context", "static" or "feature".
        kind: "numeric", "categorical" or "hour" (of the day).
        scale: If above 0, values are first converted to asinh(value / scale).
        values: The frequent categories. All others are encoded as "unknown".
    """

    name: str
    source: str
    kind: str
    mean: float = 0.0
    std: float = 1.0
    scale: float = 0.0
    values: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of entries of a token that encode this column."""
        return {"numeric": 1, "hour": 2}.get(self.kind, len(self.values) + 1)

    def scores(self, values: Floats) -> Floats:
        """Return z-scores of a numeric column, clipped to +-5. Null becomes 0."""
        values = _asinh(values, self.scale) if self.scale else values
        # np.clip and np.nan_to_num take several times as long for a few tokens.
        scores = np.minimum(np.maximum((values - self.mean) / self.std, -5.0), 5.0)
        scores[np.isnan(scores)] = 0.0
        return scores


@dataclass(frozen=True)
class Encoder:
    """Converts windows to model inputs and labels, with statistics and vocabularies from the training data.

    A token is the concatenation of these parts:

    - the channel of the previous touchpoint, one-hot, with one more position for the start of a journey;
    - the reward and each seen outcome of the previous touchpoint;
    - the hour of the day as a point on a circle, and the pause since the previous touchpoint;
    - the context columns, the static columns and the stored features.

    Attributes:
        reward_min: Smallest value of gain - cost_weight * cost in the training data.
        reward_max: Largest such value.
        segment: Name of the static column with the user's segment, or None.
    """

    channels: tuple[str, ...]
    window: int
    gain: Gain
    cost_weight: float
    reward_min: float
    reward_max: float
    slots: tuple[Slot, ...]
    segment: str | None

    @classmethod
    def fit(cls, batch: WindowBatch, spec: DatasetSpec) -> Encoder:
        """Compute the statistics from a batch of training windows."""
        not_start_N = batch.prev_channel_N < len(spec.channels)
        happened = {name: values_N[not_start_N] for name, values_N in batch.prev_outcomes.items()}
        if batch.targets is not None:
            happened = {name: np.append(seen, batch.targets.outcomes[name]) for name, seen in happened.items()}
        slots = [_amount_slot(name, "outcome", happened[name]) for name in spec.seen_outcomes]
        slots.append(Slot("hour_of_day", "time", "hour"))
        pause = batch.time["recency_hours"]
        slots.append(_amount_slot("recency_hours", "time", pause[np.isfinite(pause)]))
        for source, columns, held in (
            ("context", spec.context, batch.context),
            ("static", spec.static, batch.static),
            # Stored features are last, because the network reads them separately.
            ("feature", spec.feature_columns, batch.features),
        ):
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
        net = spec.reward.gain.of(happened) - spec.reward.cost_weight * happened["cost"]
        low, high = (float(net.min()), float(net.max())) if net.size else (0.0, 1.0)
        return cls(
            spec.channels, spec.window, spec.reward.gain, spec.reward.cost_weight, low, high, tuple(slots), spec.segment
        )

    @property
    def dim(self) -> int:
        """Number of numbers in a token, D."""
        return len(self.channels) + 2 + sum(slot.width for slot in self.slots)

    def encode(self, batch: WindowBatch) -> tuple[NDArray[np.float32], Ints]:
        """Return the tokens x_BTD of a batch, padded with zeros at the end, and the number of tokens of each window."""
        x_BTD = np.zeros((len(batch), self.window, self.dim), dtype=np.float32)
        x_PD = x_BTD.reshape(-1, self.dim)
        place_N = batch.row_N * self.window + batch.step_N
        start = len(self.channels)
        x_PD[place_N, batch.prev_channel_N] = 1.0
        begins_N = batch.prev_channel_N == start
        x_PD[place_N, start + 1] = np.where(begins_N, 0.0, self.previous_reward(batch))
        at = start + 2
        held: dict[str, Mapping[str, Values]] = {"outcome": batch.prev_outcomes, "time": batch.time}
        held |= {"context": batch.context, "static": batch.static, "feature": batch.features}
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
    def seen(self) -> tuple[str, ...]:
        """Names of the previous touchpoint's outcomes that a token contains."""
        return tuple(slot.name for slot in self.slots if slot.source == "outcome")

    @property
    def stored(self) -> int:
        """Number of entries of a token, at its end, that encode stored features."""
        return sum(slot.width for slot in self.slots if slot.source == "feature")

    def previous_reward(self, batch: WindowBatch) -> Floats:
        """Return the reward of the previous touchpoint for each token; ignore it at the start of a journey."""
        return self.reward(self.previous_gain(batch), batch.prev_outcomes["cost"] * ("cost" in self.seen))

    def previous_gain(self, batch: WindowBatch) -> Floats:
        """Return the gain of the previous touchpoint for each token, from the outcomes that the model sees."""
        return self.gain.of({name: batch.prev_outcomes[name] * (name in self.seen) for name in self.gain.names})

    def reward(self, gain: ArrayLike, cost: ArrayLike) -> Floats:
        """Return the label of the reward decoder: gain - cost_weight * cost, scaled to [0, 1]."""
        net = np.asarray(gain, dtype=np.float64) - self.cost_weight * np.asarray(cost, dtype=np.float64)
        return np.clip((net - self.reward_min) / self._span, 0.0, 1.0)

    def unreward(self, reward: ArrayLike, cost: ArrayLike) -> Floats:
        """Return the gain that belongs to a reward and a cost, in its own unit."""
        scaled = np.asarray(reward, dtype=np.float64) * self._span + self.reward_min
        return scaled + self.cost_weight * np.asarray(cost, dtype=np.float64)

    def targets(self, batch: WindowBatch) -> dict[str, NDArray[Any]]:
        """Return the labels of each token: channel_BT (int64), reward_BT and cost_BT (float32), clone_BT (bool).

        The channel is -1 for padding and for tokens that training must ignore. The action head learns the tokens in
        clone_BT.
        """
        if batch.targets is None:
            raise WindowError("this batch was built without targets")
        valid_N = np.flatnonzero(batch.targets.valid_N)
        targets, place = batch.targets.take(valid_N), (batch.row_N[valid_N], batch.step_N[valid_N])
        shape, cost_N = (len(batch), self.window), targets.outcomes["cost"]
        channel_BT = np.full(shape, -1, dtype=np.int64)
        reward_BT, cost_BT = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        clone_BT = np.zeros(shape, dtype=np.bool_)
        channel_BT[place], cost_BT[place], clone_BT[place] = targets.channel_N, cost_N, ~targets.collected_N
        reward_BT[place] = self.reward(self.gain.of(targets.outcomes), cost_N)
        return {"channel_BT": channel_BT, "reward_BT": reward_BT, "cost_BT": cost_BT, "clone_BT": clone_BT}

    def segment_slice(self) -> tuple[int, int] | None:
        """Return start and stop of the one-hot user segment in a token, or None if tokens have no segment.

        The last entry of the one-hot vector stands for unknown segments.
        """
        at = len(self.channels) + 2
        for slot in self.slots:
            if slot.name == self.segment:
                return at, at + slot.width
            at += slot.width
        return None

    def segment_of(self, batch: WindowBatch) -> Ints:
        """Return the number of each window's segment, or 0 if the data set has no segment."""
        slot = next((slot for slot in self.slots if slot.name == self.segment), None)
        return np.zeros(len(batch), dtype=np.int64) if slot is None else _places(slot, batch.static[slot.name])

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder as values for JSON, with exact floats."""
        data = asdict(self)
        data["slots"] = [{**slot, "values": list(slot["values"])} for slot in data["slots"]]
        return {**data, "channels": list(self.channels), "gain": self.gain.plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Encoder:
        """Create an encoder from the result of `to_dict`."""
        slots = tuple(Slot(**{**slot, "values": tuple(slot["values"])}) for slot in data["slots"])
        own = {"channels": tuple(data["channels"]), "gain": Gain.of_spec(data["gain"]), "slots": slots}
        return cls(**{**data, **own})

    @property
    def _span(self) -> float:
        return self.reward_max - self.reward_min or 1.0


def _asinh(values: Floats, scale: float) -> Floats:
    # The division may overflow to infinity, which the next line limits.
    with np.errstate(over="ignore"):
        return np.arcsinh(np.minimum(np.maximum(values / scale, -1e300), 1e300))


def _places(slot: Slot, values: Values) -> Ints:
    assert isinstance(values, Codes)
    place = {value: i for i, value in enumerate(slot.values)}
    # The last entry stands for "unknown". Null has the code -1, which selects it.
    table = np.array([place.get(v, len(place)) for v in values.values] + [len(place)], dtype=np.int64)
    return table[values.codes]


def _amount_slot(name: str, source: str, values: Floats) -> Slot:
    """Create the slot of a column with amounts of very different sizes, which asinh scales."""
    amounts = np.abs(values[values != 0])
    scale = float(np.quantile(amounts, 0.1)) if amounts.size else 1.0
    scaled = _asinh(values, scale) if values.size else np.zeros(1)
    return Slot(name, source, "numeric", float(scaled.mean()), float(scaled.std()) or 1.0, scale=scale)


class Labels(NamedTuple):
    """The logged channel, reward and cost at the last token of each window.

    Attributes:
        reward_B: Reward from 0 to 1.
        collected_B: Whether one of our own policies made the decision.
    """

    channel_B: Ints
    reward_B: Floats
    cost_B: Floats
    collected_B: Bools


def labels(windows: Windows, encoder: Encoder) -> Labels:
    """Return the labels of windows; raises WindowError if the windows were built without targets."""
    parts = []
    for batch in in_chunks(windows):
        if batch.targets is None:
            raise WindowError("this batch was built without targets")
        last = batch.targets.take(np.cumsum(batch.length_B) - 1)
        cost_B = last.outcomes["cost"]
        parts.append((last.channel_N, encoder.reward(encoder.gain.of(last.outcomes), cost_B), cost_B, last.collected_N))
    return Labels(*map(np.concatenate, zip(*parts, strict=True)))

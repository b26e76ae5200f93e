"""The log as transitions, for baselines that learn the values of actions.

    data = Transitions.of(train, encoder, states)
    state_BS, channel_B, reward_B, next_BS, goes_on_B = data.at(rows_B)

A transition leads from the decision on a touchpoint to the decision on the next one of the same journey. A journey ends
with its last touchpoint.

Shapes: B windows (touchpoints), S numbers of a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtorl.baselines.inputs.states import States
from mtorl.log.columns import WindowError
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.window import WindowBatch


class Step(NamedTuple):
    """A batch of transitions."""

    state_BS: Tensor
    channel_B: Tensor
    reward_B: Tensor  # as the encoder scales it, in [0, 1]
    next_BS: Tensor
    goes_on_B: Tensor  # 1; 0 where the journey ends, and next_BS is meaningless


@dataclass(frozen=True)
class Transitions:
    """One transition for each touchpoint of a log; the next state of a row is the state of the row below."""

    state_BS: Tensor
    channel_B: Tensor
    reward_B: Tensor
    goes_on_B: Tensor

    @classmethod
    def of(cls, batch: WindowBatch, encoder: Encoder, states: States) -> Transitions:
        """Read windows with their targets, one for each touchpoint and in the order of the log."""
        logged = labels(batch, encoder)
        return cls(
            torch.as_tensor(states.of(batch), dtype=torch.float32),
            torch.as_tensor(logged.channel_B),
            torch.as_tensor(logged.reward_B, dtype=torch.float32),
            torch.as_tensor(~ends(batch, encoder), dtype=torch.float32),
        )

    def at(self, rows_B: Tensor) -> Step:
        """Transitions by their rows."""
        goes_on_B = self.goes_on_B[rows_B]
        next_BS = self.state_BS[rows_B + goes_on_B.long()]
        return Step(self.state_BS[rows_B], self.channel_B[rows_B], self.reward_B[rows_B], next_BS, goes_on_B)

    def __len__(self) -> int:
        return len(self.state_BS)


def ends(batch: WindowBatch, encoder: Encoder) -> NDArray[np.bool_]:
    """Which touchpoints are the last of their journey, in windows as of `Transitions.of`."""
    if batch.targets is None:
        raise WindowError("this batch was built without targets")
    last_B = np.cumsum(batch.length_B) - 1
    touchpoint_B = batch.targets.touchpoint_N[last_B]
    # A user's rows are adjacent and in the order of time: the row below is of the same journey if it has a history.
    below_B = touchpoint_B[1:] == touchpoint_B[:-1] + 1
    has_history_B = batch.prev_channel_N[last_B[1:]] < len(encoder.channels)
    return np.append(~(below_B & has_history_B), True)

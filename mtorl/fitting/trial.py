"""One trial of a search: train one network with some settings, and measure how well it predicts validation users.

    trials = Trials(windows)                                 # windows that are read once
    loss = trials.run(TrainConfig(lr=0.01), on_epoch)

**What is minimised.** The validation loss with the *default* weights,

    loss = action + 2 reward + 0.3 cost        of validation users, in the epoch whose weights are kept

and not the loss that the trial trains with: its weights are part of the search, and chosen weights can make a loss
small without predicting anything better.

Policy value would be too noisy to choose by. For 600 validation users with 12 touchpoints each, one click in nine and
importance weights of 2, the standard error of an off-policy estimate is 5 % of the value, which is as much as settings
move it. But loss is another thing than value: on the simulator a search lowered it and gained no value
(docs/training.md). So the settings that a search finds are a candidate like any other, and the gate decides.

No row of a test user is used, so the evaluation on test users and the gate stay honest, however long the search was. A
trial trains one network and not the ensemble: the members differ in their seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from mtorl.log.columns import WindowError
from mtorl.network.parallel import one_thread
from mtorl.network.training import TrainConfig, train
from mtorl.window.encoder import Encoder
from mtorl.window.loader import FolderWindows, TrainingWindows
from mtorl.window.table import WindowTable, shards

METRIC = "validation_loss"  # name of the objective, in what a trial prints

WEIGHTS = {"action": 1.0, "reward": TrainConfig.mu, "cost": TrainConfig.nu}
"""Of the losses in the objective, whatever weights a trial trains with."""

OnEpoch = Callable[[int, float], None]
"""Called with the epoch, from 1, and the loss of the weights that would be kept if training ended with it."""


class Trials:
    """Trials on a windows folder, one after the other.

    Raises:
        WindowError: it is none, or has no training users.
    """

    def __init__(self, windows: str) -> None:
        self.windows = windows
        self._files = shards(windows)

    @cached_property
    def data(self) -> TrainingWindows:
        """The windows of training and of validation users; those of one shard stay in memory from trial to trial."""
        encoder, channels = self._encoder()
        return TrainingWindows(
            FolderWindows(self.windows, "train", encoder), FolderWindows(self.windows, "val", encoder), channels
        )

    def run(self, config: TrainConfig, on_epoch: OnEpoch | None = None) -> float:
        """Train with some settings; the objective of the weights that are kept.

        Args:
            on_epoch: See `OnEpoch`. What it raises ends the trial.

        Raises:
            WindowError: there are no training users, or no validation users.
            TrainingDiverged: a loss or gradient became NaN or infinite.
        """
        kept: dict[str, float] = {}

        def on_row(row: dict[str, float]) -> None:
            nonlocal kept
            if not kept or row["val_loss"] < kept["val_loss"]:  # as training keeps weights
                kept = row
            if on_epoch is not None:
                on_epoch(int(row["epoch"]), objective(kept))

        with one_thread():
            result = train(self.data, config, on_row)
        return objective(result.history[result.best_epoch - 1])

    def _encoder(self) -> tuple[Encoder, int]:
        """The encoder that the training itself would fit, and the number of channels."""
        for file in self._files:
            table = WindowTable.load(self.windows, "train", file)
            if len(table.rows):
                return Encoder.fit(table.tiles("train"), table.spec), len(table.spec.channels)
        raise WindowError("no training windows: the log has too few users")


def objective(row: dict[str, float]) -> float:
    """The objective of an epoch, from its row of the training's history."""
    return sum(weight * row[f"val_{name}"] for name, weight in WEIGHTS.items())

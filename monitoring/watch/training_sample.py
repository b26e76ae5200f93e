"""Loads a sample of a model's training data from the model's artifact."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mtorl.artifact.artifact import load
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column


@dataclass(frozen=True)
class TrainingSample:
    """A sample of a model's training data, with which the monitor compares the columns of a period.

    Attributes:
        thresholds: Thresholds of the drift tests; None if the sample has too few users.
    """

    model_version: str
    rows: pd.DataFrame
    context: tuple[Column, ...]
    static: tuple[Column, ...]
    thresholds: ThresholdGrid | None


def sample_of_artifact(find: Callable[[str | None], Path | None]) -> Callable[[str | None], TrainingSample | None]:
    """Build a function that loads a model's training sample by digest, or returns None if the model is unknown.

    That function raises ArtifactError if the artifact can't be read.

    Args:
        find: Returns the artifact folder of the model with the given digest, or of the newest model for None.
    """

    def sample(digest: str | None) -> TrainingSample | None:
        folder = find(digest)
        if folder is None:
            return None
        model = load(folder)
        rows = model.reference()
        known = tuple(column for column in model.spec.static if column.name in rows)
        return TrainingSample(str(model.model["version"]), rows, model.spec.context, known, model.drift_thresholds())

    return sample

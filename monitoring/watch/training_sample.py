"""The sample of a model's training data in its artifact, with which columns are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mtorl.artifact.artifact import load
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column


@dataclass(frozen=True)
class TrainingSample:
    """A model's.

    Attributes:
        model_version: Of the model.
        rows: User, context and static columns.
        context: Columns of the context.
        static: Columns of users that are in it.
        thresholds: Measured for this sample; None: it has too few users.
    """

    model_version: str
    rows: pd.DataFrame
    context: tuple[Column, ...]
    static: tuple[Column, ...]
    thresholds: ThresholdGrid | None


def sample_of_artifact(find: Callable[[str | None], Path | None]) -> Callable[[str | None], TrainingSample | None]:
    """A function from a model's digest to its sample; None if the model isn't found.

    Args:
        find: The folder of the artifact with a digest; of None, that of the newest model.

    Returns:
        A function that raises ArtifactError where the artifact can't be read.
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

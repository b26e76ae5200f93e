"""Loads the sample of a model's training data from its artifact, as the reference for columns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mtorl.artifact.artifact import load
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column


@dataclass(frozen=True)
class TrainingSample:
    """A model's sample: user, context and static columns; `thresholds` is None if it has too few users."""

    model_version: str
    rows: pd.DataFrame
    context: tuple[Column, ...]
    static: tuple[Column, ...]
    thresholds: ThresholdGrid | None


def sample_of_artifact(find: Callable[[str | None], Path | None]) -> Callable[[str | None], TrainingSample | None]:
    """A function from a model's digest to its sample, or None if there is no such model; may raise ArtifactError.

    Args:
        find: Returns the folder of the artifact with a digest; for None, that of the newest model.
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

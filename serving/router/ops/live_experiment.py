"""The experiment in force: re-read when its file changes, kept when the new one is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mtorl.experiment.experiment import Experiment, ExperimentError
from serving.router.ops import metrics

log = logging.getLogger(__name__)


class LiveExperiment:
    """Holds the experiment; readers take `experiment` once a request.

    Args:
        path: The experiment file.
        channels: Of the data set; the default channel must be one of them.

    Raises:
        ExperimentError: there is no usable file at the start.
    """

    def __init__(self, path: Path, channels: Sequence[str]) -> None:
        self._path = path
        self.channels = channels
        self._seen = self._signature()
        self.generation = 1
        self.experiment = self._load()
        metrics.show_experiment(self.experiment, self.generation)

    def refresh(self) -> bool:
        """Look at the file; whether another experiment is in force now."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            self.experiment = self._load()
        except ExperimentError as error:
            metrics.RELOAD_FAILURES.inc()
            log.error("the experiment stays as it was: %s", error)
            return False
        self.generation += 1
        metrics.show_experiment(self.experiment, self.generation)
        return True

    def _load(self) -> Experiment:
        experiment = Experiment.load(self._path)
        if experiment.default_channel not in self.channels:
            known = ", ".join(self.channels)
            raise ExperimentError(
                f"{self._path}: default_channel: {experiment.default_channel!r} is not one of {known}"
            )
        return experiment

    def _signature(self) -> tuple[int, ...]:
        """Changes with the file. A ConfigMap changes by a symlink that points elsewhere: hence the inode."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

"""The experiment in force: read again when its file changes, kept when the new file is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mtorl.experiment.experiment import Experiment, ExperimentError
from serving.router.ops import metrics

log = logging.getLogger(__name__)


class LiveExperiment:
    """Holds the experiment. A request takes `experiment` once, so that all of its decisions have the same.

    Args:
        path: The experiment file.
        channels: Of the data set; the default channel must be one of them.

    Raises:
        ExperimentError: There is no usable file at the start.
    """

    def __init__(self, path: Path, channels: Sequence[str]) -> None:
        self._path = path
        self.channels = channels
        self._version = self._signature()
        self.generation = 1
        self.experiment = self._load()
        metrics.show_experiment(self.experiment, self.generation)

    def refresh(self) -> bool:
        """Look at the file; returns whether another experiment is in force now."""
        signature = self._signature()
        if signature == self._version:
            return False
        self._version = signature
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
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size

"""The experiment in force: read again when its file changes, kept when the new one is wrong.

What comes into force is also kept as a file of the router's own, so that a restart beside a wrong file is no outage:
the router starts with what it had, and waits for the file only if nothing usable was kept. Until the file is mended or
replaced, `/health/ready`, the metric `mtorl_experiment_refused` and the log say that something else is in force than
what was asked for.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Protocol

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.files import remove, replacing
from serving.router.ops import metrics
from serving.router.ops.health import Health

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the experiment comes from."""

    @property
    def signature(self) -> object:
        """Changes with the experiment."""

    def load(self, spec: DatasetSpec) -> Experiment:
        """The experiment, which fits a data set.

        Raises:
            ExperimentError: It can't be used; the message says where it is.
        """


class ExperimentFile:
    """A file that people write, or that a ConfigMap is mounted as.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def signature(self) -> object:
        """Changes with the file. A ConfigMap changes by a symlink that points elsewhere: hence the inode."""
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def load(self, spec: DatasetSpec) -> Experiment:
        """What is in the file.

        Raises:
            ExperimentError: It can't be read or used, or does not fit the data set.
        """
        experiment = Experiment.load(self._path)
        try:
            experiment.check(spec)
        except ExperimentError as error:
            raise ExperimentError(f"{self._path}: {error}") from None
        return experiment


class LiveExperiment:
    """Holds the experiment. A request takes `experiment` once, so that all of its decisions have the same.

    Args:
        source: Where it comes from.
        spec: The data set, whose channels, columns and outcomes the experiment may name.
        health: Is told when the file is refused.
        last_good: Where to keep what is in force, for people and for the next start; None: nowhere.
        start_with_it: Whether to start with what was kept if the file is wrong then.

    Attributes:
        missing: Why there is no experiment: the file is wrong at the start, and nothing usable was kept.
        generation: Times that the file was loaded.
    """

    def __init__(
        self,
        source: Source,
        spec: DatasetSpec,
        health: Health,
        last_good: Path | None = None,
        start_with_it: bool = True,
    ) -> None:
        self._source = source
        self._spec = spec
        self._health = health
        self._last_good = last_good
        self._start_with_it = start_with_it
        self._version = source.signature
        self._experiment: Experiment | None = None
        self.missing: ExperimentError | None = None
        self.generation = 0
        try:
            self._accept(source.load(spec))
        except ExperimentError as error:
            self._experiment = self._load_last_good()
            self._refuse(error)

    @property
    def experiment(self) -> Experiment:
        """What is in force.

        Raises:
            ExperimentError: Nothing is yet, see `missing`.
        """
        if self._experiment is None:
            assert self.missing is not None
            raise self.missing
        return self._experiment

    def refresh(self) -> bool:
        """Look at the file; returns whether another experiment is in force now."""
        signature = self._source.signature
        if signature == self._version:
            return False
        self._version = signature
        try:
            self._accept(self._source.load(self._spec))
        except ExperimentError as error:
            self._refuse(error)
            return False
        return True

    def _accept(self, experiment: Experiment) -> None:
        self._experiment, self.missing = experiment, None
        self.generation += 1
        self._show(experiment)
        metrics.EXPERIMENT_REFUSED.set(0)
        self._health.note("experiment")
        if self._last_good is None:
            return
        try:
            with replacing(self._last_good, durable=True) as unfinished:
                unfinished.write_text(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False))
        except OSError as error:
            with contextlib.suppress(OSError):
                remove(self._last_good)  # nothing is better than an older one, which may lack a kill switch
            self._health.note("experiment", f"in force, but can't be kept for a restart: {error}")
            log.error("the experiment is in force, but can't be kept for a restart: %s", error)

    def _refuse(self, error: ExperimentError) -> None:
        metrics.EXPERIMENT_REFUSED.set(1)
        if self._experiment is None:
            self.missing = error
            return
        self._show(self._experiment)
        self._health.note(
            "experiment", f"{self._experiment.name} goes on as it was, since the file is refused: {error}"
        )
        log.error("the experiment stays as it was: %s", error)

    def _show(self, experiment: Experiment) -> None:
        metrics.EXPERIMENT_ENABLED.set(experiment.enabled)
        metrics.EXPERIMENT_GENERATION.set(self.generation)

    def _load_last_good(self) -> Experiment | None:
        if self._last_good is None or not self._start_with_it or not self._last_good.exists():
            return None
        try:
            return ExperimentFile(self._last_good).load(self._spec)
        except ExperimentError as error:  # of another version, or another data set
            log.error("the last good experiment can't be used: %s", error)
            return None

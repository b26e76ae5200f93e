"""The experiments in force: read again when their files change, kept when the new ones are wrong.

What comes into force is also kept as a file of the router's own, so that a restart beside a wrong file is no outage:
the router starts with what it had, and waits for the files only if nothing usable was kept. Until the files are mended
or replaced, `/health/ready`, the metric `mtorl_experiment_refused` and the log say that something else is in force than
what was asked for.

A wrong file changes nothing for the experiments of the others. Nor does one that would get in their way. But a switch
that is off in it is in force: `enabled: false` needs nothing else to be right.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError, is_switched_off
from mtorl.experiment.layers import Experiments
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.files import remove, replacing
from serving.router.ops import metrics
from serving.router.ops.health import Health

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the experiments come from."""

    @property
    def signature(self) -> object:
        """Changes with the experiments."""

    def texts(self) -> Mapping[str, bytes]:
        """The experiments as YAML, each by a name of its own, which messages say.

        Raises:
            ExperimentError: There are none, or they can't be read.
        """


class ExperimentFiles:
    """Files that people write, or that a ConfigMap is mounted as.

    Args:
        path: A file with an experiment, or a folder with such files, named *.yaml.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _files(self) -> list[Path]:
        return sorted(self._path.glob("[!.]*.yaml")) if self._path.is_dir() else [self._path]

    @property
    def signature(self) -> object:
        """Changes with the files. A ConfigMap changes by a symlink that points elsewhere: hence the inode."""
        found = []
        try:
            for file in self._files():
                status = file.stat()
                found.append((file.name, status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError:
            return ()
        return tuple(found)

    @property
    def written(self) -> float:
        """When one of them was written last, seconds since 1970; 0: there is none."""
        try:
            return max((file.stat().st_mtime for file in self._files()), default=0.0)
        except OSError:
            return 0.0

    def texts(self) -> Mapping[str, bytes]:
        """What is in the files.

        Raises:
            ExperimentError: One can't be read, or there is none.
        """
        try:
            found = {file.name: file.read_bytes() for file in self._files()}
        except OSError as error:
            raise ExperimentError(f"{error.filename or self._path}: cannot read the experiment: {error}") from None
        if not found:
            raise ExperimentError(f"{self._path}: there is no *.yaml in it")
        return found


class LiveExperiments:
    """Holds the experiments. A decision takes its own once, so that all of its stages have the same.

    Args:
        source: Where they come from.
        spec: The data set, whose channels, columns and outcomes they may name.
        health: Is told when one is refused.
        last_good: Folder in which to keep what is in force, for people and for the next start; None: nowhere.
        start_with_it: Whether to start with what was kept in place of what is wrong then.

    Attributes:
        missing: Why nothing is in force: an experiment is wrong at the start, and nothing usable was kept of it.
        refused: Whether something else was asked for than is in force.
        generation: Times that something came into force.
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
        self._signature = source.signature
        self._in_force = self._kept() if start_with_it else {}  # by the name of the text
        self._experiments: Experiments | None = None
        self.missing: ExperimentError | None = None
        self.refused = False
        self.generation = 0
        self._load()

    @property
    def experiments(self) -> Experiments:
        """What is in force.

        Raises:
            ExperimentError: Nothing is yet, see `missing`.
        """
        if self._experiments is None:
            assert self.missing is not None
            raise self.missing
        return self._experiments

    @property
    def versions(self) -> dict[str, str]:
        """Version of each experiment in force."""
        return {} if self._experiments is None else {one.name: one.version for one in self._experiments}

    def refresh(self) -> bool:
        """Look at the source; returns whether something else is in force now."""
        signature = self._source.signature
        if signature == self._signature:
            return False
        self._signature = signature
        before = self._experiments
        self._load()
        return self._experiments is not before

    def _load(self) -> None:
        try:
            texts = self._source.texts()
        except ExperimentError as error:
            accepted, faults, lacking = self._in_force, [str(error)], not self._in_force
        else:
            read, unreadable = self._read(texts)
            # What seems to be gone may have another name now, under which it can't be read.
            standing = {name: one for name, one in self._in_force.items() if name in texts or unreadable}
            accepted, refused = put_together(standing, read)
            for name, text in texts.items():
                if name in accepted and accepted[name] != read.get(name) and is_switched_off(text):
                    accepted[name] = accepted[name].replace(enabled=False)  # the rest can wait
            faults, lacking = unreadable + refused, any(name not in accepted for name in texts)
        self.refused = bool(faults)
        metrics.EXPERIMENT_REFUSED.set(self.refused)
        if self._experiments is None and lacking:
            self.missing = ExperimentError("; ".join(faults))
            return
        self.missing = None
        if self._experiments is None or accepted != self._in_force:
            self._put_in_force(accepted)
        else:
            self._health.note("experiment")
        if faults:
            words = "; ".join(faults)
            self._health.note("experiment", f"refused, and what was in force goes on: {words}")
            log.error("an experiment is refused, and what was in force goes on: %s", words)

    def _read(self, texts: Mapping[str, bytes]) -> tuple[dict[str, Experiment], list[str]]:
        """Those that can be used, and what is wrong with the others. One that is as it was is the same object."""
        found, faults = dict[str, Experiment](), []
        for name, text in texts.items():
            try:
                experiment = Experiment.from_yaml(text)
                experiment.check(self._spec)
            except ExperimentError as error:
                faults.append(f"{name}: {error}")
            else:
                before = self._in_force.get(name)
                found[name] = before if before == experiment else experiment
        return found, faults

    def _put_in_force(self, accepted: Mapping[str, Experiment]) -> None:
        self._in_force = dict(accepted)
        self._experiments = Experiments(accepted.values())
        self.generation += 1
        metrics.EXPERIMENT_GENERATION.set(self.generation)
        metrics.show_experiments(self._experiments)
        self._health.note("experiment")
        if (fault := self._keep()) is not None:
            self._health.note("experiment", f"in force, but can't be kept for a restart: {fault}")
            log.error("what is in force can't be kept for a restart: %s", fault)

    def _keep(self) -> OSError | None:
        """Keep what is in force; why that did not work."""
        if self._last_good is None:
            return None
        fault = None
        for name, experiment in self._in_force.items():
            file = self._last_good / name
            text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            try:
                if not file.exists() or file.read_text(encoding="utf-8") != text:
                    with replacing(file, durable=True) as unfinished:
                        unfinished.write_text(text, encoding="utf-8")
            except OSError as error:
                fault = error
                with contextlib.suppress(OSError):
                    remove(file)  # nothing is better than an older one, which may lack a kill switch
        with contextlib.suppress(OSError):
            for file in self._last_good.glob("[!.]*"):
                if file.name not in self._in_force:
                    remove(file)
        return fault

    def _kept(self) -> dict[str, Experiment]:
        """What was kept and can be used."""
        found = {}
        for file in sorted(self._last_good.glob("[!.]*")) if self._last_good is not None else ():
            try:
                experiment = Experiment.load(file)
                experiment.check(self._spec)
            except ExperimentError as error:  # of another version, or another data set
                log.error("what was in force last can't be used: %s", error)
            else:
                found[file.name] = experiment
        return found


def put_together(
    standing: Mapping[str, Experiment], read: Mapping[str, Experiment]
) -> tuple[dict[str, Experiment], list[str]]:
    """What can be in force together: all that was read or, if some of it gets in the way, what can be changed.

    Args:
        standing: What has been in force, by name.
        read: What is to take its place or to be added.

    Returns:
        What is to be in force, and what is wrong with what is not.
    """
    if not (everything := {**standing, **read}) or _fits(everything) is None:
        return everything, []
    found, faults = dict(standing), []
    for name, experiment in sorted(read.items()):
        changed = {**found, name: experiment}
        if (words := _fits(changed)) is None:
            found = changed
        else:
            faults.append(f"{name}: {words}")
    return found, faults


def _fits(experiments: Mapping[str, Experiment]) -> str | None:
    try:
        Experiments(experiments.values())
    except ExperimentError as error:
        return str(error)
    return None

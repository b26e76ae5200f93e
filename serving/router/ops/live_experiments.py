"""Keeps the active experiments: reloads changed files, and keeps the last valid version of each experiment.

An experiment is switched off by a file NAME.off, or by the line `enabled: false` even if the rest of its file is
invalid.
"""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from mtorl.experiment.budget_table import forget_tables
from mtorl.experiment.experiment import Experiment, ExperimentError, is_switched_off, text_with_table
from mtorl.experiment.layers import Experiments
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.files import remove, replacing
from serving.router import messages
from serving.router.ops import metrics
from serving.router.ops.health import Health

log = logging.getLogger(__name__)
OFF = ".off"
"""Suffix of a file that switches an experiment off. It lies next to the experiment's file, and may be empty."""


class Source(Protocol):
    """A source of experiment files."""

    def texts(self, versions: Mapping[str, str], refused: bool) -> Mapping[str, bytes]:
        """Return the content of each file: NAME.yaml for an experiment, and NAME.off for a file that switches it off.

        Raises ExperimentError if there is no experiment, or if a file can't be read.
        """

    def folder(self, name: str) -> Path:
        """Return the folder of an experiment's budget table."""


class ExperimentFiles:
    """A source that reads one experiment file, or all *.yaml files in a folder.

    `tables` is the folder of the budget tables, by default the folder of the experiment file.
    """

    def __init__(self, path: Path, tables: Path | None = None) -> None:
        self._path = path
        self._tables = tables

    def _files(self) -> list[Path]:
        return sorted(self._path.glob("[!.]*.yaml")) if self._path.is_dir() else [self._path]

    @property
    def written(self) -> float:
        """Time of the last change, seconds since 1970; 0 if there is no file."""
        try:
            return max((file.stat().st_mtime for file in self._files()), default=0.0)
        except OSError:
            return 0.0

    def texts(self, versions: object = None, refused: object = None) -> Mapping[str, bytes]:
        """As in `Source`."""
        files = self._files()
        switches = [switch for file in files if (switch := file.with_suffix(OFF)).exists()]
        try:
            found = {file.name: file.read_bytes() for file in [*files, *switches]}
        except OSError as error:
            raise ExperimentError(f"{error.filename or self._path}: cannot read the experiment: {error}") from None
        if not found:
            raise ExperimentError(f"{self._path}: the folder has no *.yaml file")
        return found

    def folder(self, name: str) -> Path:
        """As in `Source`."""
        file = self._path / name if self._path.is_dir() else self._path
        return self._tables or file.resolve().parent


class LiveExperiments:
    """The active experiments. A decision reads its experiment only once, so all its stages use the same version.

    If `start_with_it` is true, a restarted router begins with the experiments saved in `last_good`.
    """

    def __init__(
        self, source: Source, spec: DatasetSpec, health: Health, last_good: Path, start_with_it: bool = True
    ) -> None:
        self._source = source
        self._spec = spec
        self._health = health
        self._last_good = last_good
        self._seen: object = None  # what the source returned last
        self._in_force = self._kept() if start_with_it else {}  # file name -> active experiment
        self._experiments: Experiments | None = None
        self.missing = ""  # why no experiment is active
        self.refused = False  # whether a file is refused
        self.refresh()

    @property
    def experiments(self) -> Experiments:
        """The active experiments. Raises ExperimentError if there is none."""
        if self._experiments is None:
            raise ExperimentError(self.missing)
        return self._experiments

    @property
    def versions(self) -> dict[str, str]:
        """The version of each active experiment."""
        return {} if self._experiments is None else {one.name: one.version for one in self._experiments}

    def refresh(self) -> bool:
        """Read the source again; returns whether the active experiments have changed."""
        texts: Mapping[str, bytes] = {}
        fault = ""
        try:
            texts = self._source.texts(self.versions, self.refused)
        except ExperimentError as error:
            fault = str(error)
        seen = texts, fault, _budget_tables({self._source.folder(name) for name in texts})
        if seen == self._seen:
            return False
        self._seen = seen
        accepted, faults = (self._in_force, [fault]) if fault else self._accept(texts)
        self.refused = bool(faults)
        metrics.EXPERIMENT_REFUSED.set(self.refused)
        lacking = not accepted or any(name not in accepted for name in texts if not name.endswith(OFF))
        if self._experiments is None and lacking:
            self.missing = "; ".join(faults) or "there is no experiment"
            return False
        self.missing = ""
        if changed := self._experiments is None or accepted != self._in_force:
            self._apply(accepted)
        else:
            self._health.note("experiment")
        if faults:
            words = "; ".join(faults)
            self._health.note("experiment", refusal := messages.EXPERIMENT_REFUSED(faults=words))
            log.error("an experiment is refused: %s", refusal)
        return changed

    def _accept(self, texts: Mapping[str, bytes]) -> tuple[dict[str, Experiment], list[str]]:
        """Parse and check files; returns the experiments to apply by file name, and the faults.

        An unchanged experiment must stay the same object, because `Experiments.holds` compares objects.
        """
        off = {Path(name).stem for name in texts if name.endswith(OFF)}
        texts = {name: text for name, text in texts.items() if not name.endswith(OFF)}
        read, faults = dict[str, Experiment](), []
        for name, text in texts.items():
            try:
                experiment = Experiment.from_yaml(text, self._source.folder(name))
                if Path(name).stem in off:
                    experiment = experiment.replace(enabled=False)
                experiment.check(self._spec)
            except ExperimentError as error:
                faults.append(f"{name}: {error}")
            else:
                before = self._in_force.get(name)
                read[name] = before if before == experiment else experiment
        # An invalid file may be a missing experiment's file under a new name.
        standing = {name: one for name, one in self._in_force.items() if name in texts or faults}
        accepted, conflicts = _put_together(standing, read)
        for name, text in texts.items():
            switched_off = Path(name).stem in off or is_switched_off(text)
            if switched_off and name in accepted and accepted[name] != read.get(name):  # apply only its kill switch
                accepted[name] = accepted[name].replace(enabled=False)
        return accepted, faults + conflicts

    def _apply(self, accepted: Mapping[str, Experiment]) -> None:
        self._in_force = dict(accepted)
        self._experiments = Experiments(accepted.values())
        metrics.show(metrics.EXPERIMENT_ENABLED, {(one.name,): one.enabled for one in self._experiments})
        self._health.note("experiment")
        try:
            self._keep()
        except OSError as fault:
            for file in self._last_good.glob("[!.]*"):  # an older version would undo a kill switch
                with contextlib.suppress(OSError):
                    remove(file)
            self._health.note("experiment", problem := messages.NOT_KEPT(error=str(fault)))
            log.error("an experiment is %s", problem)

    def _keep(self) -> None:
        for name, experiment in self._in_force.items():
            file, text = self._last_good / name, text_with_table(experiment, self._last_good)
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                with replacing(file, durable=True) as unfinished:
                    unfinished.write_text(text, encoding="utf-8")
        for file in self._last_good.glob("[!.]*"):
            if file.name not in self._in_force:
                remove(file)
        forget_tables(self._last_good, [one.budget_table for one in self._in_force.values() if one.budget_table])

    def _kept(self) -> dict[str, Experiment]:
        found = {}
        for file in sorted(self._last_good.glob("[!.]*")):
            try:
                experiment = Experiment.load(file)
                experiment.check(self._spec)
            except ExperimentError as error:  # saved by another release, or for another data set
                log.error("a saved experiment can't be used: %s", error)
            else:
                found[file.name] = experiment
        return found


def _put_together(
    standing: Mapping[str, Experiment], read: Mapping[str, Experiment]
) -> tuple[dict[str, Experiment], list[str]]:
    """Replace experiments by new ones without conflicts; returns the result and the faults."""
    with contextlib.suppress(ExperimentError):
        Experiments({**standing, **read}.values())
        return {**standing, **read}, []
    found, faults = dict(standing), []
    for name, experiment in sorted(read.items()):
        try:
            Experiments({**found, name: experiment}.values())
            found[name] = experiment
        except ExperimentError as error:
            faults.append(f"{name}: {error}")
    return found, faults


def _budget_tables(folders: Iterable[Path]) -> object:
    """Return a value that changes with the budget tables in the folders."""
    try:
        files = sorted(file for folder in folders for file in folder.iterdir() if file.suffix in (".csv", ".parquet"))
        found = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return [(name, status.st_mtime_ns, status.st_ino, status.st_size) for name, status in found]

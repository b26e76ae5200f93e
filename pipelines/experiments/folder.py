"""Stores an experiment on a laptop: its file, its history, and the active experiment.

    folder = ExperimentFolder.of(Path("first-day.yaml"))     # the state folder is first-day/, as for `mtorl serve`
    with folder.locked():
        folder.append(event)                                 # first-day/history.jsonl, durable
        folder.apply_experiment(experiment)                  # first-day/experiment.yaml, which the router reads

People write the experiment file; this module never changes the file. A writer locks the folder, appends to the history,
and then writes the active experiment that follows from file and history. After a crash, the next writer writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mtorl.experiment.budget_table import forget_tables
from mtorl.experiment.experiment import Experiment, ExperimentError, is_switched_off, text_with_table
from mtorl.experiment.history import Event, HistoryError, read_events
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.runtime.files import replacing, sync
from mtorl.runtime.locks import locked
from mtorl.runtime.message import prefixed
from mtorl.runtime.validation import read_yaml
from pipelines import messages


def named_by_router(state: Path, name: str) -> str | None:
    """Return a path from the router's settings in a state folder; None if no router was started there."""
    settings = state / "router.yaml"
    if not settings.exists():
        return None
    found = read_yaml(settings, "the router's settings", ExperimentError)
    if not isinstance(found, dict) or name not in found:
        raise ExperimentError(messages.NO_SETTING(file=settings, name=name))
    return str(found[name])


def read_by_router(state: Path) -> list[Path]:
    """Return the experiment files that the router of a state folder reads; empty if no router was started there."""
    named = named_by_router(state, "experiment")
    if not named:
        return []
    return sorted(Path(named).glob("[!.]*.yaml")) if Path(named).is_dir() else [Path(named)]


_LOCK_SECONDS = 10.0
_HEAD = "# The active experiment. Written by mtorl; edit {file} instead\n"


@dataclass(frozen=True)
class ExperimentFolder:
    """Paths of an experiment.

    Attributes:
        file: The experiment file, written by people.
        state: Folder for all other files, created on demand.
        dataset: The data set's description, which the file must fit; None: the router's, if a router was started.
    """

    file: Path
    state: Path
    dataset: Path | str | None = None

    @classmethod
    def of(cls, file: Path, state: Path | None = None, dataset: Path | str | None = None) -> ExperimentFolder:
        """Return the paths for an experiment file; the default state folder is the file's path without its suffix."""
        return cls(file, state or file.with_suffix(""), dataset)

    @property
    def name(self) -> str:
        """The file's path, for messages."""
        return str(self.file)

    @property
    def history(self) -> Path:
        """The file of events, one JSON object per line."""
        return self.state / "history.jsonl"

    @property
    def in_force(self) -> Path:
        """The file of the active experiment, which the router reads."""
        return self.state / "experiment.yaml"

    def definition(self) -> Experiment:
        """Load the experiment file. Raises ExperimentError if it is invalid, or does not fit the router's data set."""
        experiment = Experiment.load(self.file)
        dataset = self.dataset or named_by_router(self.state, "dataset")
        if dataset is not None and Path(dataset).exists():  # a kill must work even if the run's folder is gone
            try:
                experiment.check(DatasetSpec.load(dataset))
            except (ExperimentError, SpecError) as error:
                raise ExperimentError(prefixed(self.file, error)) from None
        return experiment

    def switched_off(self) -> bool:
        """Return whether the file has `enabled: false`, even if it is invalid otherwise."""
        try:
            return is_switched_off(self.file.read_bytes())
        except OSError:
            return False

    def router_reads_file(self) -> bool:
        """Return whether the router reads the experiment file directly, instead of the active file."""
        return any(file.resolve() == self.file.resolve() for file in read_by_router(self.state))

    def last_in_force(self) -> Experiment | None:
        """Return the active experiment; None if there is none, or it can't be read."""
        try:
            return Experiment.load(self.in_force) if self.in_force.exists() else None
        except ExperimentError:  # a manual edit, or a file of another version; the next change replaces it
            return None

    def events(self) -> list[Event]:
        """Read the history, oldest event first. Raises HistoryError if it can't be read."""
        try:
            return read_events(self.history.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (HistoryError, UnicodeDecodeError) as error:
            raise HistoryError(prefixed(self.history, error)) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold exclusive access during the block. OSError if another process, perhaps suspended, keeps the lock."""
        self.state.mkdir(parents=True, exist_ok=True)
        path = self.state / "history.lock"
        busy = TimeoutError(messages.LOCK_HELD(path=path, seconds=_LOCK_SECONDS))
        with locked(path, busy, wait_seconds=_LOCK_SECONDS):
            yield

    def append(self, event: Event) -> None:
        """Append an event durably; the caller holds the lock."""
        with open(self.history, "ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)  # drop an incomplete line of a crashed writer
            file.write(event.line().encode())
            file.flush()
            os.fsync(file.fileno())
        sync(self.state)

    def apply_experiment(self, experiment: Experiment) -> None:
        """Write the active experiment, unless it is unchanged; the caller holds the lock."""
        content = _HEAD.format(file=self.file.name) + text_with_table(experiment, self.state)
        if self.in_force.exists() and self.in_force.read_bytes() == content.encode():
            return
        with replacing(self.in_force, durable=True) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        forget_tables(self.state, [experiment.budget_table] if experiment.budget_table else [])

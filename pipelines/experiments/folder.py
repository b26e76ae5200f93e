"""Stores an experiment on a laptop: its file, its history, and the active experiment.

People write the experiment file, and this module never changes it.
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
    """Read one of the router's settings; None if no router has run in this folder."""
    settings = state / "router.yaml"
    if not settings.exists():
        return None
    found = read_yaml(settings, "the router's settings", ExperimentError)
    if not isinstance(found, dict) or name not in found:
        raise ExperimentError(messages.NO_SETTING(file=settings, name=name))
    return str(found[name])


def read_by_router(state: Path) -> list[Path]:
    """List the experiment files that the router reads."""
    named = named_by_router(state, "experiment")
    if not named:
        return []
    return sorted(Path(named).glob("[!.]*.yaml")) if Path(named).is_dir() else [Path(named)]


_LOCK_SECONDS = 10.0
_HEAD = "# The active experiment. Written by mtorl; edit {file} instead\n"


@dataclass(frozen=True)
class ExperimentFolder:
    """The files of one experiment on a laptop.

    Attributes:
        file: The experiment file, which people write.
        state: Folder for all other files.
        dataset: Description of the data set that the experiment must fit. None means the router's data set.
    """

    file: Path
    state: Path
    dataset: Path | str | None = None

    @classmethod
    def of(cls, file: Path, state: Path | None = None, dataset: Path | str | None = None) -> ExperimentFolder:
        """Find the files of an experiment. The state folder is by default the file's path without its suffix."""
        return cls(file, state or file.with_suffix(""), dataset)

    @property
    def name(self) -> str:
        """Path of the experiment file, for messages."""
        return str(self.file)

    @property
    def history(self) -> Path:
        """Path of the history, with one event per line as JSON."""
        return self.state / "history.jsonl"

    @property
    def in_force(self) -> Path:
        """Path of the active experiment, which the router reads."""
        return self.state / "experiment.yaml"

    def definition(self) -> Experiment:
        """Read the experiment file. Raises ExperimentError if it is invalid, or does not fit the router's data set."""
        experiment = Experiment.load(self.file)
        dataset = self.dataset or named_by_router(self.state, "dataset")
        # Skip this check if the data set's folder was removed, because a kill must still work.
        if dataset is not None and Path(dataset).exists():
            try:
                experiment.check(DatasetSpec.load(dataset))
            except (ExperimentError, SpecError) as error:
                raise ExperimentError(prefixed(self.file, error)) from None
        return experiment

    def switched_off(self) -> bool:
        """Return whether the file has `enabled: false`, even if it is otherwise invalid."""
        try:
            return is_switched_off(self.file.read_bytes())
        except OSError:
            return False

    def router_reads_file(self) -> bool:
        """Return whether the router reads the experiment file itself."""
        return any(file.resolve() == self.file.resolve() for file in read_by_router(self.state))

    def last_in_force(self) -> Experiment | None:
        """Read the active experiment; None if there is no valid one."""
        try:
            return Experiment.load(self.in_force) if self.in_force.exists() else None
        # A person has edited the file, or another release has written it.
        except ExperimentError:
            return None

    def events(self) -> list[Event]:
        """Read the history, the oldest event first. Raises HistoryError if it can't be read."""
        try:
            return read_events(self.history.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (HistoryError, UnicodeDecodeError) as error:
            raise HistoryError(prefixed(self.history, error)) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other writers during the block. Raises TimeoutError if the lock stays held."""
        self.state.mkdir(parents=True, exist_ok=True)
        path = self.state / "history.lock"
        busy = TimeoutError(messages.LOCK_HELD(path=path, seconds=_LOCK_SECONDS))
        with locked(path, busy, wait_seconds=_LOCK_SECONDS):
            yield

    def append(self, event: Event) -> None:
        """Append an event to the history durably. The caller holds the lock."""
        with open(self.history, "ab+") as file:
            file.seek(0)
            content = file.read()
            # Remove an incomplete last line, which a crashed process has left.
            file.truncate(content.rfind(b"\n") + 1)
            file.write(event.line().encode())
            file.flush()
            os.fsync(file.fileno())
        sync(self.state)

    def apply_experiment(self, experiment: Experiment) -> None:
        """Write the active experiment durably. The caller holds the lock."""
        content = _HEAD.format(file=self.file.name) + text_with_table(experiment, self.state)
        if self.in_force.exists() and self.in_force.read_bytes() == content.encode():
            return
        with replacing(self.in_force, durable=True) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        forget_tables(self.state, [experiment.budget_table] if experiment.budget_table else [])

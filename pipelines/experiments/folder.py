"""An experiment on a laptop: its file, its history, and what is in force.

    folder = ExperimentFolder.of(Path("first-day.yaml"))     # its state is in first-day/, as that of `mtorl serve`
    with folder.locked():
        folder.append(event)                                 # first-day/history.jsonl, durable
        folder.apply_experiment(experiment)                      # first-day/experiment.yaml, which the router reads

The file belongs to people and stays as it is. A writer holds the lock, writes the history first, and then applies what
follows from file and history; after a crash in between, the next writer does so.
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
    """A path in the settings that the router of a state was started with; None: no router was started there."""
    settings = state / "router.yaml"
    if not settings.exists():
        return None
    found = read_yaml(settings, "the router's settings", ExperimentError)
    if not isinstance(found, dict) or name not in found:
        raise ExperimentError(messages.NO_SETTING(file=settings, name=name))
    return str(found[name])


def read_by_router(state: Path) -> list[Path]:
    """The experiment files that the router of a state reads; empty: no router was started there."""
    named = named_by_router(state, "experiment")
    if not named:
        return []
    return sorted(Path(named).glob("[!.]*.yaml")) if Path(named).is_dir() else [Path(named)]


_LOCK_SECONDS = 10.0
_HEAD = "# What is in force. Written by mtorl; the file to edit is {file}\n"


@dataclass(frozen=True)
class ExperimentFolder:
    """Paths of an experiment.

    Attributes:
        file: Written by people.
        state: Folder with everything else; made when it is needed.
        dataset: The data set's description, which the file must fit; None: that of the router, once one was started.
    """

    file: Path
    state: Path
    dataset: Path | str | None = None

    @classmethod
    def of(cls, file: Path, state: Path | None = None, dataset: Path | str | None = None) -> ExperimentFolder:
        """The folder of a file; by default its state is in the folder of the same name without the suffix."""
        return cls(file, state or file.with_suffix(""), dataset)

    @property
    def name(self) -> str:
        """The file's path, for messages."""
        return str(self.file)

    @property
    def history(self) -> Path:
        """JSON lines, one an event."""
        return self.state / "history.jsonl"

    @property
    def in_force(self) -> Path:
        """The file that the router reads."""
        return self.state / "experiment.yaml"

    def definition(self) -> Experiment:
        """The experiment in the file. ExperimentError: it can't be used, or does not fit the router's data set."""
        experiment = Experiment.load(self.file)
        dataset = self.dataset or named_by_router(self.state, "dataset")
        if dataset is not None and Path(dataset).exists():  # without its run's folder, a router may still be stopped
            try:
                experiment.check(DatasetSpec.load(dataset))
            except (ExperimentError, SpecError) as error:
                raise ExperimentError(prefixed(self.file, error)) from None
        return experiment

    def switched_off(self) -> bool:
        """Whether the file has `enabled: false`, also if nothing else of it can be used."""
        try:
            return is_switched_off(self.file.read_bytes())
        except OSError:
            return False

    def router_reads_file(self) -> bool:
        """Whether the router of this state reads the file itself, instead of what is in force."""
        return any(file.resolve() == self.file.resolve() for file in read_by_router(self.state))

    def last_in_force(self) -> Experiment | None:
        """The experiment that was applied last; None: none, or it can't be read any more."""
        try:
            return Experiment.load(self.in_force) if self.in_force.exists() else None
        except ExperimentError:  # of another version, or edited by hand: the next change replaces it
            return None

    def events(self) -> list[Event]:
        """The history, the oldest event first. HistoryError: it can't be read."""
        try:
            return read_events(self.history.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (HistoryError, UnicodeDecodeError) as error:
            raise HistoryError(prefixed(self.history, error)) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive access. OSError: a process holds the lock for longer than moments; it was suspended, perhaps."""
        self.state.mkdir(parents=True, exist_ok=True)
        path = self.state / "history.lock"
        busy = TimeoutError(messages.LOCK_HELD(path=path, seconds=_LOCK_SECONDS))
        with locked(path, busy, wait_seconds=_LOCK_SECONDS):
            yield

    def append(self, event: Event) -> None:
        """Write an event durably; the lock is held."""
        with open(self.history, "ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)  # a line without its end has not happened
            file.write(event.line().encode())
            file.flush()
            os.fsync(file.fileno())
        sync(self.state)

    def apply_experiment(self, experiment: Experiment) -> None:
        """Hand an experiment to the router, unless it has it; the lock is held."""
        content = _HEAD.format(file=self.file.name) + text_with_table(experiment, self.state)
        if self.in_force.exists() and self.in_force.read_bytes() == content.encode():
            return
        with replacing(self.in_force, durable=True) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        forget_tables(self.state, [experiment.budget_table] if experiment.budget_table else [])

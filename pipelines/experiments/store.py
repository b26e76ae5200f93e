"""Where an experiment is kept: what the controller needs of a laptop's folder and of a cluster's object alike."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event


class ExperimentStore(Protocol):
    """An experiment: what people wrote, all that has happened to it, and what is in force."""

    @property
    def name(self) -> str:
        """What people call the place of the definition, for messages: a file, or an object."""

    def definition(self) -> Experiment:
        """What people wrote.

        Raises:
            ExperimentError: It can't be used.
        """

    def switched_off(self) -> bool:
        """Whether people wrote `enabled: false`, whatever else is wrong with the definition."""

    def events(self) -> list[Event]:
        """All that has happened.

        Raises:
            HistoryError: The history can't be read.
        """

    def append(self, event: Event) -> None:
        """Write what happens, durably; the store is locked."""

    def last_in_force(self) -> Experiment | None:
        """What was put into force last; None: nothing was, or it can't be read any more."""

    def put_in_force(self, experiment: Experiment) -> None:
        """Hand it to the routers, unless they have it; the store is locked."""

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else changes anything meanwhile."""

"""Tracks the progress and the duration of each step of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A step of a run, with its identifier ("train-challenger") and its title ("train MTORL")."""

    name: str
    title: str


OnStep = Callable[[Step, float, float, str], None]
"""Type of a function that is called with a step's progress: step, done, total, and a note. A total of 0 means that the
step reports no progress."""


@dataclass
class StepTimes:
    """A progress callback that records how long each step took."""

    on_step: OnStep
    seconds: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    """Seconds for which the run was active before it was interrupted."""
    _began: float = field(default_factory=time.monotonic)
    _started: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Return the run's duration in seconds, without interruptions."""
        return self.before + time.monotonic() - self._began

    def __call__(self, step: Step, done: float, total: float, note: str) -> None:
        """Record the progress of a step, and forward the call to `on_step`."""
        started = self._started.setdefault(step.name, time.monotonic())
        if total and done >= total:
            self.seconds[step.name] = time.monotonic() - started
        self.on_step(step, done, total, note)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Report the start of a step and, unless the block raises an error, its end."""
        self(Step(name, title), 0, 0, "")
        yield
        self(Step(name, title), 1, 1, "")

"""Tracks the progress and duration of a run's steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A step of a run, with an identifier ("train-challenger") and a title ("train MTORL")."""

    name: str
    title: str


OnStep = Callable[[Step, float, float, str], None]
"""Called with (step, done, total, note). A total of 0 means that the step reports no progress."""


@dataclass
class StepTimes:
    """A progress callback that forwards each call to `on_step`, and records the duration of each finished step."""

    on_step: OnStep
    seconds: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    """Seconds that the run took before it was interrupted."""
    _began: float = field(default_factory=time.monotonic)
    _started: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of the run so far, without interruptions."""
        return self.before + time.monotonic() - self._began

    def __call__(self, step: Step, done: float, total: float, note: str) -> None:
        """Record and forward a progress call; this object is an `OnStep`."""
        started = self._started.setdefault(step.name, time.monotonic())
        if total and done >= total:
            self.seconds[step.name] = time.monotonic() - started
        self.on_step(step, done, total, note)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Report the block as a step: its start, and its end unless the block raises."""
        self(Step(name, title), 0, 0, "")
        yield
        self(Step(name, title), 1, 1, "")

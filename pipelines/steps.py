"""Progress of a run: its steps, how far each is, and how long each took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A part of a run, with a name for machines ("train-challenger") and a title for people ("train MTORL")."""

    name: str
    title: str


OnStep = Callable[[Step, float, float, str], None]
"""Called with (step, done, total, note); total 0 means that the step does not say how far it is."""


@dataclass
class StepTimes:
    """Passes a run's progress on and keeps the seconds of each finished step."""

    on_step: OnStep
    seconds: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    """Seconds of the run before it was interrupted."""
    _began: float = field(default_factory=time.monotonic)
    _started: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of the run until now, without its interruptions."""
        return self.before + time.monotonic() - self._began

    def __call__(self, step: Step, done: float, total: float, note: str) -> None:
        """An `OnStep`."""
        started = self._started.setdefault(step.name, time.monotonic())
        if total and done >= total:
            self.seconds[step.name] = time.monotonic() - started
        self.on_step(step, done, total, note)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Report the start and the end of a step of this process."""
        self(Step(name, title), 0, 0, "")
        yield
        self(Step(name, title), 1, 1, "")

"""Progress as a person sees it: a bar for each step on a terminal; elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mtorl.runtime import progress
from pipelines.steps import Step

_COUNTS = 100  # from such a total on, units are things that people count, such as decisions


class ProgressBars:
    """Bars; on a stream that is not a terminal, plain lines.

    Args:
        console: Where to draw; standard error by default, whatever takes its place later, such as a runner's log.
        line_seconds: Time between two lines about a step that goes on, where no bar can be drawn.
        clock: Seconds from any start.
    """

    def __init__(
        self,
        console: Console | None = None,
        line_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(file=sys.stderr)
        self._line_seconds, self._clock = line_seconds, clock
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._running: dict[str, _Running] = {}
        self._ended = threading.Event()

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        if not self._console.is_terminal:
            threading.Thread(target=self._keep_telling, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._progress.stop()

    def on_step(self, step: Step, done: float, total: float, note: str) -> None:
        """Show that a step has started (total 0), advanced, or finished (done == total)."""
        now = self._clock()
        running = self._running.setdefault(step.name, _Running(step.title, now))
        finished = total > 0 and done >= total
        running.advance(done, total, note, now)
        if step.name not in self._tasks:
            self._tasks[step.name] = self._progress.add_task(step.title, total=None, note="", pace="")
        if total:
            pace = "" if finished else running.pace(now)
            self._progress.update(self._tasks[step.name], total=total, completed=done, note=running.note, pace=pace)
        if finished:
            del self._running[step.name]
            self._print(running, now, "")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Follow a long function of this process by its `progress.report` calls; finished when the block is."""
        step = Step(title, title)

        def on_report(done: float, total: float, note: str) -> None:
            # The last report of a function is not the end of the step: another function may follow.
            self.on_step(step, min(done, 0.99 * total), total, note)

        self.on_step(step, 0, 0, "")
        try:
            with progress.listen(on_report):
                yield
        except BaseException:
            del self._running[title]
            raise
        self.on_step(step, 1, 1, " ")  # the last note was about the way, not the end

    def tell(self) -> None:
        """Print a line about each step of which nothing was said for a while."""
        now = self._clock()
        for running in list(self._running.values()):
            if now - running.told >= self._line_seconds:
                running.told = now
                self._print(running, now, running.pace(now))

    @property
    def drawn(self) -> dict[str, tuple[float, float | None, str]]:
        """What the bars show now: done, total and note by title."""
        return {task.description: (task.completed, task.total, task.fields["note"]) for task in self._progress.tasks}

    def _keep_telling(self) -> None:
        while not self._ended.wait(min(1.0, self._line_seconds)):
            self.tell()

    def _print(self, running: _Running, now: float, pace: str) -> None:
        if not self._console.is_terminal:
            words = "  ".join(filter(None, (pace, running.note.strip())))
            line = f"{running.title:<36} {now - running.started:6.1f} s  {words}"
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


class _Running:
    """A step that goes on, and how fast."""

    def __init__(self, title: str, now: float) -> None:
        self.title, self.note = title, ""
        self.started = self.told = now
        self._done = self._total = 0.0
        self._part = (now, 0.0)  # when the part that is measured began, and what was done then

    def advance(self, done: float, total: float, note: str, now: float) -> None:
        """Take a report. A step may have several parts, which begin at 0 each."""
        if total != self._total or done < self._done:
            self._part = (now, done)
        self._done, self._total, self.note = done, total, note or self.note

    def pace(self, now: float) -> str:
        """How far it is, how fast, and how long the rest of this part takes at this speed."""
        if not self._total:
            return ""
        since, before = self._part
        speed = (self._done - before) / max(now - since, 1e-9)
        if self._total >= _COUNTS:
            place, rate = f"{self._done:,.0f} of {self._total:,.0f}", f"{speed:,.1f}/s"
        else:
            place, rate = f"{100 * self._done / self._total:.0f} %", f"{100 * speed / self._total:.1f} %/s"
        return f"{place}, {rate}, {(self._total - self._done) / speed:,.0f} s left" if speed > 0 else place

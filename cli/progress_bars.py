"""Progress as a person sees it: a bar for each step on a terminal, a line for each finished one elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mtorl.runtime import progress
from pipelines.steps import Step


class ProgressBars:
    """Bars; on a stream that is not a terminal, one plain line for each finished step.

    Args:
        console: Where to draw; standard error by default, whatever takes its place later, such as a runner's log.
        quiet_seconds: Least time between two lines about a step that goes on, where no bar can be drawn.
    """

    def __init__(self, console: Console | None = None, quiet_seconds: float = 30.0) -> None:
        self._console = console or Console(file=sys.stderr)
        self._quiet_seconds = quiet_seconds
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_step(self, step: Step, done: float, total: float, note: str) -> None:
        """Show that a step has started (total 0), advanced, or finished (done == total)."""
        if step.name not in self._tasks:
            self._tasks[step.name] = self._progress.add_task(step.title, total=None, note="")
        task = self._tasks[step.name]
        if total:
            before = self._progress.tasks[self._progress.task_ids.index(task)]
            finished = done >= total
            self._progress.update(task, total=total, completed=done, note=note or before.fields["note"])
            if finished and not self._console.is_terminal:
                elapsed = before.elapsed or 0.0
                self._console.print(f"{step.title:<36} {elapsed:6.1f} s  {note or before.fields['note']}".rstrip())

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Follow a long function of this process by its `progress.report` calls; finished when the block is."""
        step = Step(title, title)
        note, last_line = "", time.monotonic()

        def on_report(done: float, total: float, words: str) -> None:
            nonlocal note, last_line
            note = words or note
            # The last report of a function is not the end of the step: another function may follow.
            self.on_step(step, min(done, 0.99 * total), total, note)
            if not self._console.is_terminal and time.monotonic() - last_line > self._quiet_seconds:
                last_line = time.monotonic()
                self._console.print(f"{title:<36} {100 * done / max(total, 1e-9):4.0f} %   {note}".rstrip())

        self.on_step(step, 0, 0, "")
        with progress.listen(on_report):
            yield
        self.on_step(step, 1, 1, " ")  # the last note was about the way, not the end

    @property
    def drawn(self) -> dict[str, tuple[float, float | None, str]]:
        """What the bars show now: done, total and note by title."""
        return {task.description: (task.completed, task.total, task.fields["note"]) for task in self._progress.tasks}

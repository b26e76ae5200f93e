"""Shows the progress of steps: as a bar for each step in a terminal, otherwise as a line every ten seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from mtorl.runtime import progress
from pipelines.steps import Step

LINE_SECONDS = 10.0
"""Seconds between two progress lines of a step, if the console is not a terminal."""
_COUNTS = 100


class ProgressBars:
    """Shows a progress bar for each step, or plain lines if the console is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            _PaceColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._running: dict[str, TaskID] = {}
        self._ended = threading.Event()

    def __enter__(self) -> ProgressBars:
        self.progress.start()
        if not self._console.is_terminal:
            threading.Thread(target=self._keep_printing, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self.progress.stop()

    def on_step(self, step: Step, done: float, total: float, note: str) -> None:
        """Show that a step has started (`total` is 0), advanced, or finished (`done` equals `total`)."""
        if step.name not in self._running:
            self._running[step.name] = self.progress.add_task(step.title, total=None, note="", part=(0.0, 0.0))
        task = next(task for task in self.progress.tasks if task.id == self._running[step.name])
        part = task.fields["part"]
        # If the total changes or the progress falls, another part of the step has begun, so measure its speed from now.
        if total != (task.total or 0) or done < task.completed:
            part = (self.progress.get_time(), done)
        note = note or task.fields["note"]
        self.progress.update(task.id, total=total or None, completed=done, note=note, part=part)
        if 0 < total <= done:
            self._print(task)
            del self._running[step.name]

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show the `progress.report` calls of the block as one step."""
        step = Step(title, title)

        def on_report(done: float, total: float, note: str) -> None:
            # Never show 100 % here, because another function in the block may follow.
            self.on_step(step, min(done, 0.99 * total), total, note)

        self.on_step(step, 0, 0, "")
        try:
            with progress.listen(on_report):
                yield
        except BaseException:
            del self._running[title]
            raise
        # The note " " removes the last note, which describes work that was in progress.
        self.on_step(step, 1, 1, " ")

    def print_running(self) -> None:
        """Print a line about each step that is still running."""
        running = set(self._running.values())
        for task in self.progress.tasks:
            if task.id in running:
                self._print(task)

    def _keep_printing(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            self.print_running()

    def _print(self, task: Task) -> None:
        if not self._console.is_terminal:
            words = "  ".join(filter(None, (_pace(task), task.fields["note"].strip())))
            line = f"{task.description:<36} {task.elapsed or 0.0:6.1f} s  {words}"
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


class _PaceColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_pace(task))


def _pace(task: Task) -> str:
    if not task.total or task.finished:
        return ""
    since, before = task.fields["part"]
    speed = (task.completed - before) / max(task.get_time() - since, 1e-9)
    if task.total >= _COUNTS:
        place, rate = f"{task.completed:,.0f} of {task.total:,.0f}", f"{speed:,.1f}/s"
    else:
        place, rate = f"{task.percentage:.0f} %", f"{100 * speed / task.total:.1f} %/s"
    return f"{place}, {rate}, {task.remaining / speed:,.0f} s left" if speed > 0 and task.remaining else place

"""Progress as a person sees it: a bar on a terminal, plain lines elsewhere."""

import io
import sys

import pytest
from rich.console import Console

from cli import progress_bars
from cli.progress_bars import ProgressBars
from mtorl.runtime import progress
from pipelines.steps import Step


def test_without_a_terminal_a_finished_step_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBars() as bars:
        with bars.step("causal windows"):
            progress.report(1, 2, "shard 1 of 2")
            progress.report(2, 2, "shard 2 of 2")
            progress.report(0, 7, "another function")
        with pytest.raises(ValueError, match="no"), bars.step("feature sources"):
            raise ValueError("no")
        bars.print_running()
    lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1 and lines[0].startswith("causal windows") and lines[0].endswith(" s")


def test_a_line_has_time_rate_and_rest_of_the_present_part() -> None:
    """Reports of one step as they come: time, done, total, note; and the line after each."""
    out, now = io.StringIO(), [0.0]
    bars = ProgressBars(Console(file=out, get_time=lambda: now[0]))
    for at, done, total, note, line in (
        (10.0, 0, 0, "", "10.0 s"),  # a step that does not say how far it is
        (20.0, 0, 4, "2 files", "20.0 s  0 %  2 files"),
        (30.0, 1, 4, "", "30.0 s  25 %, 2.5 %/s, 30 s left  2 files"),
        (100.0, 0, 1000, "stage 5%", "100.0 s  0 of 1,000  stage 5%"),  # another part; people count its units
        (120.0, 300, 1000, "", "120.0 s  300 of 1,000, 15.0/s, 47 s left  stage 5%"),
        (130.0, 0, 1000, "", "130.0 s  0 of 1,000  stage 5%"),  # it begins anew
    ):
        if not total:
            bars.on_step(Step("traffic", "A/B traffic"), 0, 0, "")
        now[0] = at
        bars.on_step(Step("traffic", "A/B traffic"), done, total, note)
        bars.print_running()
        assert out.getvalue().splitlines()[-1].removeprefix("A/B traffic").strip() == line


def test_lines_come_by_themselves_while_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bars, "LINE_SECONDS", 0.01)
    out = io.StringIO()
    with ProgressBars(Console(file=out)) as bars:
        bars.on_step(Step("train", "train MTORL"), 0, 0, "")
        while "train MTORL" not in out.getvalue():
            pass


def test_on_a_terminal_the_bar_follows_the_reports() -> None:
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True))
    with bars.step("describe the log"):
        (bar,) = bars.progress.tasks
        progress.report(3, 7, "users")
        assert (bar.completed, bar.total, bar.fields["note"]) == (3, 7, "users")
        progress.within(0.5)
        assert bar.completed == 3.5
        progress.report(7, 7)
        assert not bar.finished
    assert bar.finished

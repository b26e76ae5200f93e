"""Progress as a person sees it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from cli.progress_bars import ProgressBars
from mtorl.runtime import progress
from pipelines.steps import Step


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(clock: Clock) -> tuple[ProgressBars, io.StringIO]:
    out = io.StringIO()
    return ProgressBars(Console(file=out), line_seconds=10.0, clock=clock), out


def test_without_a_terminal_a_finished_step_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBars() as bars:
        with bars.step("causal windows"):
            progress.report(1, 2, "shard 1 of 2")
            progress.report(2, 2, "shard 2 of 2")
            progress.report(0, 7, "another function")
        with pytest.raises(ValueError, match="no"), bars.step("feature sources"):
            raise ValueError("no")
    lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1 and lines[0].startswith("causal windows") and lines[0].endswith(" s")


def test_without_a_terminal_a_step_is_a_line_every_ten_seconds_with_its_rate() -> None:
    clock = Clock()
    bars, out = plain(clock)
    step = Step("build-features", "causal windows")  # of another process, which reports through a file
    bars.on_step(step, 0, 0, "")
    bars.tell()
    assert out.getvalue() == "", "nothing was quiet for long"
    for clock.now in (10.0, 12.0, 19.0, 20.0):
        bars.tell()
        bars.on_step(step, clock.now / 10 - 1, 4, "2,000,000 rows")
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["causal", "windows", "10.0", "s"],  # even if the step does not say how far it is
        ["causal", "windows", "20.0", "s", "22", "%,", "2.2", "%/s,", "34", "s", "left", "2,000,000", "rows"],
    ]


def test_what_people_count_is_counted_a_second() -> None:
    clock = Clock()
    bars, out = plain(clock)
    with bars.step("A/B traffic"):
        progress.report(0, 1000, "stage 5%")
        clock.now = 20.0
        progress.report(300, 1000)
        bars.tell()
    assert "20.0 s  300 of 1,000, 15.0/s, 47 s left  stage 5%" in out.getvalue()


def test_the_rate_is_that_of_the_present_part_of_a_step() -> None:
    clock = Clock()
    bars, out = plain(clock)
    with bars.step("Feast features"):
        progress.report(0, 5, "user_history")
        clock.now = 100.0
        progress.report(0, 2, "shard 1 of 2")
        clock.now = 110.0
        progress.report(1, 2, "shard 2 of 2")
        bars.tell()
    assert "50 %, 5.0 %/s, 10 s left" in out.getvalue()


def test_lines_come_by_themselves_while_nothing_is_reported() -> None:
    told = io.StringIO()
    with ProgressBars(Console(file=told), line_seconds=0.01) as bars:
        bars.on_step(Step("train", "train MTORL"), 0, 0, "")
        while "train MTORL" not in told.getvalue():
            pass


def test_on_a_terminal_the_bar_follows_the_reports() -> None:
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True))
    with bars.step("describe the log"):
        progress.report(3, 7, "users")
        assert bars.drawn == {"describe the log": (3, 7, "users")}
        progress.within(0.5)
        assert bars.drawn == {"describe the log": (3.5, 7, "users")}
        progress.report(7, 7)
        done, total, _ = bars.drawn["describe the log"]
        assert done < total == 7
    done, total, _ = bars.drawn["describe the log"]
    assert done == total

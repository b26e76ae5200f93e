"""Progress as a person sees it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from cli.progress_bars import ProgressBars
from mtorl.runtime import progress


def test_without_a_terminal_a_finished_step_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_without_a_terminal_a_long_step_is_heard_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBars(quiet_seconds=-1.0) as bars, bars.step("causal windows"):
        progress.report(1, 4, "shard 1 of 4")
    first = sys.stderr.getvalue().splitlines()[0]  # type: ignore[attr-defined]
    assert first.split() == ["causal", "windows", "25", "%", "shard", "1", "of", "4"]


def test_on_a_terminal_the_bar_follows_the_reports() -> None:
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True))
    with bars.step("describe the log"):
        progress.report(3, 7, "users")
        assert bars.drawn == {"describe the log": (3, 7, "users")}
        progress.report(7, 7)
        done, total, _ = bars.drawn["describe the log"]
        assert done < total == 7
    done, total, _ = bars.drawn["describe the log"]
    assert done == total

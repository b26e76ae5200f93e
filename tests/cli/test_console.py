"""Progress as a person sees it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
import typer
from rich.console import Console

from cli import console
from cli.console import Steps, examples
from mtorl.runtime import progress


def test_without_a_terminal_a_finished_step_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Steps() as steps:
        with steps.step("window-store"):
            progress.report(1, 2, "shard 1 of 2")
            progress.report(2, 2, "shard 2 of 2")
            progress.report(0, 7, "another function")
        with pytest.raises(ValueError, match="no"), steps.step("feature-sources"):
            raise ValueError("no")
    lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1 and lines[0].startswith("causal windows") and lines[0].endswith(" s")


def test_without_a_terminal_a_long_step_is_heard_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(console, "_QUIET", -1.0)
    with Steps() as steps, steps.step("window-store"):
        progress.report(1, 4, "shard 1 of 4")
    first = sys.stderr.getvalue().splitlines()[0]  # type: ignore[attr-defined]
    assert first.split() == ["causal", "windows", "25", "%", "shard", "1", "of", "4"]


def test_on_a_terminal_the_bar_follows_the_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    steps._console = Console(file=io.StringIO(), force_terminal=True)
    with steps.step("describe-log"):
        progress.report(3, 7, "users")
        [task] = steps._progress.tasks
        assert (task.completed, task.total, task.fields["note"]) == (3, 7, "users")
        progress.report(7, 7)
        assert not steps._progress.tasks[0].finished
    assert steps._progress.tasks[0].finished


def test_only_examples_keep_their_lines() -> None:
    text = """Words.

        mtorl one
        mtorl two

    More words.
    """
    assert examples(text) == "Words.\n\n\b\n    mtorl one\n    mtorl two\n\nMore words."


def test_stop_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        console.stop("log.csv: no such file", 2)
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err == "mtorl: log.csv: no such file\n"

"""The commands say what is wrong with what they were given: one line, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--run", "{tmp}"], ["no finished run there", "mtorl run"]),
        (["drift", "--decision-log", "{tmp}", "--artifact", "{tmp}", "--out", "{tmp}"], ["model.json", "missing"]),
        (
            ["drift", "--decision-log", "{tmp}", "--artifact", "{tmp}", "--out", "{tmp}", "--since", "yesterday"],
            ["--since", "yesterday", "ISO"],
        ),
        (["materialize", "--feature-repo", "{tmp}", "--log", "{tmp}/x", "--dataset", "nope"], ["nope", "simulator"]),
        (["run", "--users", "-5", "--root", "{tmp}/runs"], ["users", "-5"]),
    ],
    ids=["serve", "drift-artifact", "drift-since", "materialize", "run-users"],
)
def test_wrong_arguments(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, [argument.format(tmp=tmp_path) for argument in arguments])
    assert answer.exit_code == 2
    for word in words:
        assert word in answer.output
    assert "Traceback" not in answer.output


def test_help_teaches() -> None:
    answer = CliRunner().invoke(app, ["--help"])
    assert answer.exit_code == 0
    for command in ("run", "data", "serve", "compile", "materialize", "drift"):
        assert command in answer.output

"""`mtorl pipeline run`: what can't be run, and how it ends. Uploads and schedules: tests/pipelines/cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["other"], "mtorl: no pipeline 'other'; there are bootstrap, train,"),
        (["train", "-p", "source"], "mtorl: -p source: expected NAME=VALUE"),
        (["train", "-p", "source=a=b"], "mtorl: parameters that this pipeline can't do without: dataset"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["pipeline", "run", *arguments, "--volume", str(tmp_path)])
    assert answer.exit_code == 2 and answer.output.startswith(words) and answer.output.count("\n") == 1

"""The commands say what is wrong with what they were given: one line, no traceback."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import redis
from typer.testing import CliRunner

from cli.main import app
from features.offline.store import create
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.features.online_stores import write_settings
from tests.redis_server import redis_server


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


def test_materialize_says_in_one_line_what_is_wrong_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    simulator = Simulator(SimulatorConfig(users=30, seed=1))
    root, log = tmp_path / "features", tmp_path / "touchpoints.parquet"
    simulator.log().to_parquet(log, index=False)
    good = log.read_bytes()
    arguments = ["materialize", "--feature-repo", str(root), "--log", str(log), "--dataset", "simulator"]

    def run() -> tuple[int, str]:
        answer = CliRunner().invoke(app, arguments)
        return answer.exit_code, " ".join(answer.output.split())

    with redis_server(tmp_path) as port:
        write_settings(root, "redis", port)
        create(root, simulator.spec, log)
        for content, said in ((b"rubbish", "touchpoints.parquet"), (None, "no Parquet file")):
            log.unlink() if content is None else log.write_bytes(content)
            assert run()[0] == 2 and said in run()[1]
        log.write_bytes(good)
        pd.read_parquet(log).drop(columns="cost").to_parquet(log)
        assert run()[0] == 2 and "the log lacks cost" in run()[1]
        log.write_bytes(good)
        assert run() == (0, "")
    assert run()[0] == 2 and "ConnectionError" in run()[1]
    with redis_server(tmp_path, port):  # an empty one, back at its place
        assert run() == (0, "")
        assert redis.Redis(port=port).dbsize() > 30

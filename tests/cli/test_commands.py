"""Tests of behaviour that all commands share, such as help, version and shell completion."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
import redis
import typer
from typer.testing import CliRunner

from cli.main import app
from features.offline.store import Materialized, create
from features.online.open_history import open_history
from mtorl import __version__
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.packed import unpack
from tests.features.collect.decision_logs import START, add, decision, outcome, write
from tests.features.online_stores import write_settings
from tests.redis_server import redis_server


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--run", "{tmp}"], ["there is no trained run", "mtorl run --resume"]),
        (["materialize", "--feature-repo", "{tmp}", "--log", "{tmp}/x", "--dataset", "nope"], ["nope", "simulator"]),
        (["pipeline", "run", "other", "--volume", "{tmp}"], ["no pipeline 'other'; there are bootstrap, train,"]),
        (["pipeline", "run", "train", "-p", "source", "--volume", "{tmp}"], ["-p source: expected NAME=VALUE"]),
    ],
    ids=["serve", "materialize", "pipeline", "parameter"],
)
def test_wrong_arguments(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, [argument.format(tmp=tmp_path) for argument in arguments])
    assert answer.exit_code == 2
    for word in words:
        assert word in answer.output
    assert "Traceback" not in answer.output


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))  # type: ignore[arg-type]
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) or "mtorl" for command in COMMANDS])
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, [*command, "-h"])
    assert answer.exit_code == 0 and answer.output.startswith("Usage: ")
    assert CliRunner().invoke(app, ["--version"]).output == f"mtorl {__version__}\n"


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("mtorl data ", {"simulate", "init", "validate", "describe", "build", "compact", "forget"}),
        ("mtorl run --data", {"--data", "--dataset"}),
        ("mtorl run --dataset kuai", {"kuairand", "kuairand-sequence"}),
    ],
)
def test_a_shell_completes_commands_options_and_data_sets(words: str, completions: set[str]) -> None:
    environment = {"_MTORL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    answer = CliRunner().invoke(app, prog_name="mtorl", env=environment)
    assert set(answer.output.split()) == completions


def test_materialize_fails_on_bad_input_and_then_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(SimulatorConfig(users=30, seed=1))
    root, log = tmp_path / "features", tmp_path / "touchpoints.parquet"
    simulator.log().to_parquet(log, index=False)
    good, rows = log.read_bytes(), pd.read_parquet(log)
    arguments = ["materialize", "--feature-repo", str(root), "--log", str(log), "--dataset", "simulator"]

    def run(*further: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, [*arguments, *further])
        return answer.exit_code, (answer.stderr if answer.exit_code else answer.stdout).strip()

    def written(users: int = 30) -> bool:
        return f" {users} users" in run()[1]

    def flushed(*_: object, since: object) -> Materialized:
        redis.Redis(port=port).flushall()
        return Materialized(0, 0, 0, 0, 0)

    with redis_server(tmp_path) as port:
        write_settings(root, "redis", port)
        create(root, simulator.spec, log)
        faulty = rows.assign(cost=rows["cost"].where(rows.index != 3, -1.0))
        for broken in (None, rows.drop(columns="cost"), rows.head(0), faulty):
            log.write_bytes(b"rubbish") if broken is None else broken.to_parquet(log)
            code, text = run()
            assert code == 2 and "\nmtorl: " in f"\n{text}", text
        log.unlink()
        assert run()[0] == 2 and redis.Redis(port=port).keys() == [b"mtorl:written:mtorl"], "no other keys"
        faulty.to_parquet(log)
        assert " 1 faulty rows" in run("--bad-rows", "quarantine")[1]
        log.write_bytes(good)
        assert written() and run() == (0, "up to date")
        rows.tail(1).assign(timestamp=rows["timestamp"].max() + pd.Timedelta("1min")).to_parquet(tmp_path / "more")
        pd.concat([rows, pd.read_parquet(tmp_path / "more")]).to_parquet(log)
        assert re.search(r" 4 users.* 1 rows", run()[1]), "a run resumes after the last"
        assert run() == (0, "up to date") and re.search(r" 30 users.* 0 rows", run("--everything")[1])
        log.write_bytes(good)
        assert re.search(r" 30 users.* 0 rows", run()[1]), "source rows are missing"
        registry = (root / "registry.db").rename(root / "elsewhere")
        assert run()[0] == 2, "a lost volume is an error"
        registry.rename(root / "registry.db")
        assert run() == (0, "up to date")
    assert run()[0] == 2, "Redis is down"
    with redis_server(tmp_path, port):  # an empty server at the same port
        arguments += ["--every-minutes", "15"]
        assert written() and redis.Redis(port=port).dbsize() > 30
        rows.head(20).to_parquet(log)
        assert run()[0] == 0 and "has new rows" in run()[1]
        redis.Redis(port=port).flushall()
        assert run()[1].startswith("checked")
        redis.Redis(port=port).flushall()
        with monkeypatch.context() as patch:
            patch.setattr("features.offline.store.materialize", flushed)
            assert run()[0] == 1, "emptied during the write"
        assert run()[1].startswith("checked")


def test_events_lost_by_the_feed_are_read_from_the_lake_once(tmp_path: Path) -> None:
    simulator = Simulator(SimulatorConfig(users=30, seed=1))
    root, log, lake = tmp_path / "features", tmp_path / "touchpoints.parquet", tmp_path / "lake"
    simulator.log().to_parquet(log, index=False)
    static = {"age_group": "30-39", "tenure_days": 3.0, "region": "north"}
    shown = {"context": {"hour": 1.0, "device": "mobile", "placement": "feed"}, "static": static}
    dated: set[Path] = set()

    def upload(hours: int, decisions: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> None:
        add(lake, decisions, outcomes)
        for file in set(lake.rglob("*.parquet")) - dated:
            os.utime(file, (START.timestamp() + 3600 * hours + 120,) * 2)
            dated.add(file)

    write(lake)
    for hours, name in {0: "new", 3: "second", 6: "third"}.items():
        upload(hours, [decision(name, 60 * hours, user_id=name, **shown)], [outcome(f"{name}-cost", name)])
    arguments = ["materialize", "--feature-repo", str(root), "--log", str(log), "--dataset", "simulator"]

    def run(*further: str) -> str:
        answer = CliRunner().invoke(app, [*arguments, "--own-decisions", str(lake), *further])
        assert answer.exit_code == 0, answer.output
        return answer.stdout.strip()

    with redis_server(tmp_path) as port:
        write_settings(root, "redis", port)
        create(root, simulator.spec, log)
        assert " 33 users" in run() and run() == "up to date"
        upload(26, [decision("late", 1559, user_id="late", **shown)], [outcome("late-cost", "late", minutes=1560)])
        with open_history(root, simulator.spec) as history:
            assert history.store.read(["late"]) == [None]
            # Two users changed in the lake, and three in the log.
            assert " 5 users" in run()
            (value,) = history.store.read(["late"])
        assert value and unpack(value)["hist_cost"] == [0.03]
        assert run() == "up to date" and re.search(r" 34 users.* 0 rows", run("--everything"))
        upload(27, [], [outcome("new-click", "new", "click", 1.0, minutes=1600)])
        assert " 5 users" in run()
        (added,) = redis.Redis(port=port).info("keyspace").values()
        redis.Redis(port=port).flushall()
        assert " 34 users" in run()
        assert redis.Redis(port=port).info("keyspace")["db0"]["keys"] == added["keys"]

"""What is refused when a ledger moves from a file to Redis; that no money appears or vanishes: test_ledger_model.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from serving.ledger import Account, Ledger, LedgerUnavailable
from serving.ledger.move_to_redis import NotMoved, _Source, move_to_redis
from serving.ledger.redis_ledger import RedisLedger
from serving.ledger.sqlite_tables import MOVED, MOVING
from tests.redis_server import redis_server
from tests.repository import ROOT
from tests.serving.ledgers import Place, balance

ACCOUNT = Account("a", "*", "*", 10.0)


def _places(folder: Path, port: int) -> tuple[Place, Place, RedisLedger]:
    file, other = Place("sqlite", folder, port), Place("redis", folder, port)
    target = other.open()
    assert isinstance(target, RedisLedger)
    return file, other, target


def _spend(ledger: Ledger, name: str) -> None:
    ledger.define([ACCOUNT])
    assert ledger.reserve(name, "a", "c", "x", 3.0)
    ledger.settle(name, 2.0)


def test_a_file_that_is_in_use_stays(tmp_path: Path, lasting_redis: int) -> None:
    file, _, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    _spend(ledger, "r1")
    with pytest.raises(NotMoved, match=r"in use .*--replicas=0"):
        move_to_redis(file.path, target)
    assert ledger.reserve("r2", "a", "c", "x", 1.0)
    ledger.close()
    assert move_to_redis(file.path, target).open_reservations == 1


def test_nobody_spends_from_the_file_afterwards(tmp_path: Path, lasting_redis: int) -> None:
    file, other, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    _spend(ledger, "r1")
    ledger.close()
    assert move_to_redis(file.path, target).spent == 2.0
    for call in (lambda: file.open().define([ACCOUNT]), lambda: file.open().reserve("r2", "a", "c", "x", 1.0)):
        with pytest.raises(LedgerUnavailable, match="were moved to Redis"):
            call()
    _spend(other.open(), "r3")
    assert balance(other.open()).spent == 4.0
    assert move_to_redis(file.path, target).before and balance(other.open()).spent == 4.0
    with pytest.raises(NotMoved, match="was moved before, to ledger"):
        move_to_redis(file.path, _places(tmp_path, lasting_redis)[2])


def test_a_target_that_knows_spend_is_refused_and_one_that_was_only_defined_is_not(
    tmp_path: Path, lasting_redis: int
) -> None:
    file, other, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    _spend(ledger, "r1")
    ledger.close()
    _spend(other.open(), "of another router")
    with pytest.raises(NotMoved, match="knows spend of its own"):
        move_to_redis(file.path, target)
    assert balance(ledger).spent == 2.0 and balance(other.open()).spent == 2.0  # both as they were
    ledger.close()
    _, other, target = _places(tmp_path, lasting_redis)
    other.open().define([ACCOUNT, Account("b", "*", "*", 5.0)])
    assert not move_to_redis(file.path, target).before
    assert [(b.arm, b.spent) for b in other.open().balances()] == [("a", 2.0)]


def test_a_target_that_was_emptied_gives_no_fresh_budget(tmp_path: Path, lasting_redis: int) -> None:
    file, other, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    _spend(ledger, "r1")
    ledger.close()
    move_to_redis(file.path, target)
    other.client().delete(*other.client().keys(f"{target.prefix}*"))
    for _ in range(2):
        with pytest.raises(NotMoved, match=r"has lost the accounts .* append-only file"):
            move_to_redis(file.path, target)
        assert not target.has_accounts()  # so the other routers wait
    other.open().define([ACCOUNT])
    with pytest.raises(NotMoved, match="has lost the accounts"):
        move_to_redis(file.path, target)


@pytest.mark.parametrize("stopped_at", [MOVING, MOVED])
def test_a_move_that_died_in_its_last_steps_goes_on(
    tmp_path: Path, lasting_redis: int, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """Killed before or after the target got its generation: never can both be spent from."""
    file, other, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    _spend(ledger, "r1")
    ledger.close()
    mark = _Source.mark

    def killed(source: _Source, version: int, name: str) -> None:
        if stopped_at == MOVED == version:
            raise KeyboardInterrupt
        mark(source, version, name)
        if stopped_at == MOVING:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Source, "mark", killed)
        move_to_redis(file.path, target)
    with pytest.raises(LedgerUnavailable, match="start `mtorl ledger move` again"):
        file.open().define([ACCOUNT])
    assert target.has_accounts() == (stopped_at == MOVED)
    if target.has_accounts():
        _spend(other.open(), "of another router")
    spent = 4.0 if target.has_accounts() else 2.0
    assert move_to_redis(file.path, target).before == (stopped_at == MOVED)
    assert balance(other.open()).spent == spent
    with pytest.raises(LedgerUnavailable, match="were moved to Redis"):
        file.open().define([ACCOUNT])


def test_what_is_paid_stays_paid(tmp_path: Path, lasting_redis: int) -> None:
    """A request that comes again after the move, and a cost that is reported late."""
    file, other, target = _places(tmp_path, lasting_redis)
    ledger = file.open()
    ledger.define([ACCOUNT])
    for name in ("paid", "expired"):
        assert ledger.reserve(name, "a", "c", "x", 1.0, request=f"of {name}")
    ledger.settle("paid", 0.25, "*")
    ledger.settle("paid", 0.25, "e")
    ledger.expire(0)
    version, _ = ledger.memory()
    assert ledger.remember(version, "prices")
    ledger.close()
    move_to_redis(file.path, target)
    moved = other.open()
    moved.define([ACCOUNT])
    assert moved.memory() == (version + 1, "prices")
    with pytest.raises(Exception, match="another reservation pays"):
        moved.reserve("again", "a", "c", "x", 1.0, request="of paid")
    for event in ("*", "e"):
        assert moved.settle("paid", 0.7, event).charged == 0.5  # as before
    assert moved.settle("expired", 0.25).charged == 0.25
    assert balance(moved).spent == 0.75


def test_the_command_says_in_one_line_what_it_did_or_why_not(tmp_path: Path, lasting_redis: int) -> None:
    file, other, _ = _places(tmp_path, lasting_redis)

    def move(*arguments: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["ledger", "move", *arguments])
        return answer.exit_code, " ".join(answer.output.split())

    assert move(str(file.path), other.where) == (1, f"mtorl: {file.path}: no such ledger")
    file.path.write_text("rubbish")
    assert move(str(file.path), other.where)[0] == 1
    file.path.unlink()
    ledger = file.open()
    ledger.define([Account("a", "*", "*", 1e8)])
    ledger.close()
    code, text = move(str(file.path), other.where)
    assert code == 1 and "lower it first" in text
    ledger.define([ACCOUNT])
    _spend(ledger, "r1")
    ledger.close()
    assert move(str(file.path), "elsewhere.sqlite")[0] == 2
    assert move(str(file.path), other.where.replace("//", "//:secret@"))[0] == 2
    with redis_server(tmp_path) as forgetful:
        code, text = move(str(file.path), f"redis://127.0.0.1:{forgetful}")
        assert code == 1 and "appendonly" in text
    said = "1 accounts, 0 open reservations; spent 2, reserved 0, summed over all accounts and periods"
    assert move(str(file.path), other.where) == (0, f"moved: {said}")
    assert move(str(file.path), other.where) == (0, f"was moved before: {said}")


@pytest.mark.integration
def test_later_routers_wait_for_the_accounts(tmp_path: Path, lasting_redis: int) -> None:
    file, other, target = _places(tmp_path, lasting_redis)
    command = [sys.executable, "-m", "cli.main", "ledger", "wait", other.where]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert "has no accounts yet" in waiting.stdout.readline()
        ledger = file.open()
        _spend(ledger, "r1")
        ledger.close()
        assert waiting.poll() is None
        move_to_redis(file.path, target)
        assert waiting.wait(60) == 0 and not waiting.stdout.read()

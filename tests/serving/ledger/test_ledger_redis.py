"""Tests that a faulty Redis never causes an overspend."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from cli.main import app
from serving.ledger import open_ledger
from serving.ledger.contract import Account, Ledger, LedgerUnavailable
from serving.ledger.location import locate
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.messages import LEDGER_SCHEMA, NO_ACCOUNTS
from tests.messages import raises
from tests.redis_server import redis_server
from tests.repository import ROOT
from tests.serving.ledgers import NOON, Place, balance, cancel, reserve, settle
from tests.serving.router_fixtures import write_settings

ACCOUNTS = [Account("a", "*", "*", 10.0)]


@pytest.fixture
def place(tmp_path: Path, lasting_redis: int) -> Place:
    return Place("redis", tmp_path, lasting_redis)


@contextmanager
def unavailable(match: str) -> Iterator[None]:
    with pytest.raises(LedgerUnavailable, match=match):
        yield


def _every_call_is_refused(ledger: Ledger, match: str) -> None:
    for call in (
        lambda: ledger.define(ACCOUNTS),
        lambda: reserve(ledger, "r9", "a", "c", "x", 0.1),
        lambda: settle(ledger, "r1", 0.1),
        lambda: cancel(ledger, "r1"),
        lambda: ledger.expire(1),
        ledger.balances,
        ledger.open_reservations,
    ):
        with unavailable(match):
            call()


def test_without_accounts_nothing_is_spent(place: Place) -> None:
    ledger = place.open()
    with unavailable("no accounts"):
        reserve(ledger, "r1", "a", "c", "x", 0.1)
    place.open().define(ACCOUNTS)
    assert reserve(ledger, "r1", "a", "c", "x", 0.1)


def test_a_ledger_of_another_version_is_refused_and_stays(place: Place) -> None:
    key = f'{{mtorl-ledger:{place.name}}}:accounts:"*"'
    with place.client() as client:
        client.hset(key, "generation", "2-g")
    _every_call_is_refused(place.open(), "schema version 2")
    with place.client() as client:
        assert client.keys(f"{{mtorl-ledger:{place.name}}}:*") == [key] and client.hlen(key) == 1


@pytest.mark.integration
def test_later_routers_wait_for_the_accounts(place: Place) -> None:
    write_settings(place.folder, "http://x", {}, ledger=place.where)
    command = [sys.executable, "-m", "cli.main", "ledger", "wait", str(place.folder / "router.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert NO_ACCOUNTS(ledger=place.open()) in waiting.stdout.readline()
        assert waiting.poll() is None
        place.open().define(ACCOUNTS)
        assert waiting.wait(60) == 0 and not waiting.stdout.read()


def test_a_ledger_in_a_file_is_not_waited_for(tmp_path: Path) -> None:
    write_settings(tmp_path, "http://x", {})
    answer = CliRunner().invoke(app, ["ledger", "wait", str(tmp_path / "router.yaml")])
    assert (answer.exit_code, answer.output) == (0, "")


def test_ledgers_in_one_redis_are_independent(place: Place, tmp_path: Path) -> None:
    other = Place("redis", tmp_path, place.port).open()
    for ledger in (place.open(), other):
        ledger.define(ACCOUNTS)
        assert reserve(ledger, "r1", "a", "c", "x", 10.0)


def test_the_servers_clock_counts_and_flushed_scripts_are_sent_again(place: Place) -> None:
    ledger = open_ledger(place.where, 5.0)
    with pytest.raises(ValueError, match="limit: "):
        ledger.define([Account("a", "*", "*", 9_000_001.0)])  # Lua could not add it exactly
    ledger.define([Account("a", "*", "*", 1.0, "hour")])
    with place.client() as client:
        client.script_flush()
    assert reserve(ledger, "r1", "a", "c", "x", 0.5)
    assert balance(ledger, period="hour").reserved == 0.5
    assert ledger.expire(60) == 0
    assert ledger.expire(0) == 1


def test_another_schema_version_is_refused_by_every_call(place: Place) -> None:
    ledger = place.open()
    ledger.define(ACCOUNTS)
    later = f"2{str(ledger.identity())[1:]}"
    with place.client() as client:
        client.hset(f'{ledger.server.prefix}accounts:"*"', "generation", later)  # type: ignore[attr-defined]
    again = place.open()
    for call in (again.identity, again.balances, lambda: again.define(ACCOUNTS)):
        with raises(LedgerUnavailable, LEDGER_SCHEMA, found="2", own="1"):
            call()


@pytest.mark.integration
def test_a_store_restarted_without_its_files_grants_no_new_budget(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    with redis_server(tmp_path / "before", appendonly="yes") as port:
        place = Place("redis", tmp_path, port)
        ledger = place.open()
        ledger.define(ACCOUNTS)
        reserve(ledger, "r1", "a", "c", "x", 9.0)
    _every_call_is_refused(ledger, "refused")
    with redis_server(tmp_path / "after", port, appendonly="yes"), place.client() as client:
        _every_call_is_refused(ledger, "LOST")
        assert client.dbsize() == 0
        # Another process creates a new ledger, which the old connection must not use.
        place.open().define(ACCOUNTS)
        _every_call_is_refused(ledger, "LOST")
    with redis_server(tmp_path / "before", port, appendonly="yes"):  # restored
        assert balance(ledger).reserved == 9.0
        assert not reserve(ledger, "r2", "a", "c", "x", 1.5)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"appendonly": "no"}, "appendonly yes"),
        ({"appendonly": "yes", "maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "noeviction"),
    ],
)
def test_a_store_that_may_forget_is_refused(tmp_path: Path, settings: dict[str, str], fix: str) -> None:
    with redis_server(tmp_path, **settings) as port:
        place = Place("redis", tmp_path, port)
        ledger = place.open()
        _every_call_is_refused(ledger, fix)
        with place.client() as client:
            assert client.dbsize() == 0
            client.config_set("appendonly", "yes")
            client.config_set("maxmemory-policy", "noeviction")
            ledger.define(ACCOUNTS)
            assert reserve(ledger, "r1", "a", "c", "x", 0.1)
            client.config_set("appendonly", "no")
        with unavailable("appendonly yes"):
            ledger.expire(3600)  # as the router's housekeeping does
        with unavailable("appendonly yes"):
            reserve(ledger, "r2", "a", "c", "x", 0.1)


def test_a_full_store_refuses_calls_and_loses_nothing(tmp_path: Path) -> None:
    with redis_server(tmp_path, appendonly="yes", maxmemory="100mb", maxmemory_policy="noeviction") as port:
        place = Place("redis", tmp_path, port)
        ledger = place.open()
        ledger.define(ACCOUNTS)
        reserve(ledger, "r1", "a", "c", "x", 1.0)
        before, room = place.books(), ledger.room()
        assert room is not None and (room.store, room.limit, room.device) == ("redis", 100 * 2**20, None)
        assert 50 * 2**20 < room.free < room.limit
        with place.client() as client:
            client.config_set("maxmemory", "1")
            full = ledger.room()
            assert full is not None and (full.free, full.limit) == (0, 1)
            for call in (
                lambda: reserve(ledger, "r2", "a", "c", "x", 1.0),
                lambda: settle(ledger, "r1", 0.5),
                lambda: cancel(ledger, "r1"),
            ):
                with unavailable("memory"):
                    call()
            client.config_set("maxmemory", "0")
        assert ledger.room() is None, "without maxmemory, nothing limits it"
        assert place.books() == before and ledger.open_reservations() == ["r1"]
        assert settle(ledger, "r1", 0.5).charged == 0.5
    with unavailable("refused"):
        ledger.room()


@pytest.mark.integration
def test_calls_to_a_store_that_hangs_time_out(tmp_path: Path) -> None:
    with redis_server(tmp_path, appendonly="yes") as port:
        place = Place("redis", tmp_path, port)
        ledger = place.open(patience=0.2)
        ledger.define(ACCOUNTS)
        with place.client() as client:
            process = client.info("server")["process_id"]
        os.kill(process, signal.SIGSTOP)
        try:
            for _ in range(2):
                with unavailable("[Tt]ime"):
                    reserve(ledger, "r1", "a", "c", "x", 1.0)
        finally:
            os.kill(process, signal.SIGCONT)
        cancel(ledger, "r1")  # it may have been reserved
        assert balance(ledger).reserved == 0.0
        assert not reserve(ledger, "r1", "a", "c", "x", 1.0)


def test_a_password_is_from_the_environment_and_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(tmp_path, appendonly="yes", requirepass="s3cret") as port:
        url = f"redis://127.0.0.1:{port}"
        with unavailable("uthentication"):
            open_ledger(url, 5.0).define(ACCOUNTS)
        for password in ("wr0ng", "s3cret"):
            monkeypatch.setenv("MTORL_LEDGER_PASSWORD", password)
            ledger = open_ledger(url, 5.0)
            assert password not in f"{ledger!r} {ledger}"
            if password == "s3cret":
                ledger.define(ACCOUNTS)
                continue
            with pytest.raises(LedgerUnavailable) as caught:
                ledger.define(ACCOUNTS)
            assert password not in "".join(traceback.format_exception(caught.value))


def test_a_redis_user_without_admin_rights_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(tmp_path, appendonly="yes") as port:
        with redis.Redis(port=port) as client:
            rules = ["~{mtorl-ledger:*", "+@all", "-@admin", "-@dangerous", "+info"]
            client.execute_command("ACL", "SETUSER", "router", "on", ">pw", *rules)
        monkeypatch.setenv("MTORL_LEDGER_PASSWORD", "pw")
        ledger = open_ledger(f"redis://router@127.0.0.1:{port}/0?name=ads", 5.0)
        ledger.define(ACCOUNTS)
        assert reserve(ledger, "r1", "a", "c", "x", 1.0) and ledger.expire(0) == 1


@pytest.mark.parametrize("where", ["ledger.sqlite", Path("ledger.sqlite")])
def test_a_path_is_a_file(where: Any) -> None:
    ledger = open_ledger(where, 1.0)
    assert isinstance(ledger, SqliteLedger) and ledger.path == Path("ledger.sqlite")


def test_a_url_is_a_redis() -> None:
    found: Any = locate("rediss://us%40er@host:7/3?name=ads")
    assert "us" not in str(found) and "'ads'" in str(found) and "host:7" in str(found)
    assert (found.username, found.database, found.tls, found.name) == ("us@er", 3, True, "ads")
    found = locate("redis://host")
    assert (found.port, found.database, found.tls, found.name, found.username) == (6379, 0, False, "default", None)
    found = locate("rediss+cluster://user@host:7?name=ads")
    assert (found.cluster, found.port, found.tls, found.name, found.username) == (True, 7, True, "ads", "user")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:s3cret@host", "MTORL_LEDGER_PASSWORD"),
        ("redis://user:s3cret@host", "MTORL_LEDGER_PASSWORD"),
        ("redis://user:s3/cret@host", "redis://host:port"),
        ("redis://:s3cret#1@host", "redis://host:port"),
        ("redis://[s3cret@host", "redis://host:port"),
        ("redis://host/s3cret", "redis://host:port"),
        ("redis:///0", "redis://host:port"),
        ("redis+cluster://user:s3cret@host", "MTORL_LEDGER_PASSWORD"),
        ("redis+cluster://host/3?name=s3", "no databases"),
        ("redis+s3://host", "redis://host:port"),
        ("redis://host?password=s3cret", "unknown in the URL: password"),
        ("redis://host?name=a}b", "name"),
        ("postgres://user:s3cret@host", "redis://host:port"),
        ("sqlite:///ledger", "redis://host:port"),
    ],
)
def test_an_invalid_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_ledger(url, 1.0)
    assert "s3" not in "".join(traceback.format_exception(caught.value)).split("ValueError")[-1]


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_a_router_whose_clock_is_ahead_at_midnight_makes_no_day_longer(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(kind, tmp_path, request.getfixturevalue(f"lasting_{kind}"))
    ledger: Any = place.open()
    accounts = [Account(arm, "*", "*", 1.0, "day") for arm in "*a"]
    ledger.define(accounts)
    place.clock.now = NOON + 12 * 3600 - 1
    assert reserve(ledger, "r1", "a", "c", "x", 1.0)
    with monkeypatch.context() as patch:  # nodes of a cluster have different clocks
        patch.setattr(ledger, "now", lambda: place.clock.now + 2)
        ledger.define([*accounts, Account("b", "*", "*", 1.0, "day")])
    assert not reserve(ledger, "r2", "a", "c", "x", 0.5)
    place.clock.now += 2
    assert reserve(ledger, "r3", "a", "c", "x", 0.5) and {b.start for b in ledger.balances()} == {int(NOON) + 43_200}

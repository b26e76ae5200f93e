"""Tests that a ledger that lost its data grants no new budget."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from serving import messages
from serving.crash_recovery import check_ledger, remember_ledger
from serving.decision_log import Spool
from serving.ledger.contract import Account, LedgerInUse, LedgerUnavailable
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.router.router import Router
from tests.messages import raises
from tests.serving.ledgers import Place
from tests.serving.router_fixtures import FakeFeatures, Harness, running, with_router, write_settings
from tests.waiting import until


def lose(place: Place, how: str) -> None:
    if place.kind == "redis":
        with place.client() as client:
            client.delete(*client.keys(f"{{mtorl-ledger:{place.name}}}:*"))
    else:
        for file in place.folder.glob("ledger.sqlite*"):
            file.unlink()
        if how == "emptied":
            place.path.touch()
    if how == "another":
        place.open().define([Account("incumbent", "*", "*", 50.0)])


@pytest.mark.parametrize(("how", "log_alone"), [("deleted", False), ("deleted", True), ("another", False)])
@with_router()
async def test_nothing_is_spent_until_agreed(h: Harness, place: Place, ledger: str, how: str, log_alone: bool) -> None:
    def lost() -> None:
        lose(place, how)
        if log_alone:  # only the log is left
            (h.folder / "spool" / "ledger").unlink()

    # The costs of two decisions have the same event id.
    for cost in (0.03, 0.01):
        (answer,) = await h.predict()
        await h.outcome(answer["decision_id"], "cost", cost)
    await h.restart(lost)
    assert not h.router.budgets.ready
    assert (await h.predict())[0]["fallback_reason"] == "ledger"
    command = CliRunner().invoke(app, ["ledger", "agree", str(h.folder / "router.yaml")])
    assert command.exit_code == 0 and command.output.endswith(" 0.04\n")
    await until(lambda: h.router.budgets.ready)
    assert (await h.predict())[0]["expose"]
    await h.restart()
    assert (await h.predict())[0]["expose"]


def test_a_file_that_was_emptied_is_a_lost_ledger(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path, 0)
    ledger, spool = place.open(), Spool(tmp_path / "spool")
    check_ledger(ledger, spool.folder)  # both are new
    ledger.define([Account("a", "*", "*", 1.0)])
    remember_ledger(ledger, spool.folder)
    check_ledger(ledger, spool.folder)
    ledger.close()
    lose(place, "emptied")
    with raises(LedgerUnavailable, messages.LEDGER_EMPTY):
        check_ledger(place.open(), spool.folder)
    spool.close()


@with_router()
async def test_a_log_without_exposures_needs_no_ledger(h: Harness, place: Place, ledger: str) -> None:
    def lost() -> None:
        lose(place, "deleted")
        (h.folder / "spool" / "ledger").unlink()

    h.arm.mode = 500
    await h.predict()
    h.arm.mode = "ok"
    await h.restart(lost)
    assert (await h.predict())[0]["expose"]


async def test_a_second_router_on_one_ledger_file_is_refused(tmp_path: Path) -> None:
    where = str(tmp_path / "ledger.sqlite")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with running(tmp_path / "first", ledger=where) as first:
        (answer,) = await first.predict()
        assert answer["expose"]
        settings: Any = write_settings(tmp_path / "second", "http://127.0.0.1:9", {}, ledger=where)
        with raises(LedgerInUse, messages.LEDGER_IN_USE):
            await Router(settings, FakeFeatures()).__aenter__()
        assert answer["decision_id"] in first.ledger.open_reservations()
    SqliteLedger(tmp_path / "ledger.sqlite").claim()

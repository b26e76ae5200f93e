"""An upgrade in place: decisions of version 1 of the schema, also from before `withdrawn`, wherever they lie."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mtorl.log.records import is_withdrawn, one_record_each
from serving.decision_log import Spool, events
from serving.decision_log.export import export_parquet
from serving.ledger import Account, SqliteLedger
from serving.router.flow.budgets import reconcile
from serving.router.flow.idempotency_cache import IdempotencyCache, prediction_of
from tests.serving.shipping import GOLDEN, RECORDS

VERSION_3 = json.loads((GOLDEN / "version-3" / "decision.json").read_text())
VERSION_1 = json.loads((GOLDEN / "version-1" / "decision.json").read_text())
SHOWN = {"expose": True, "event_time": "2026-01-01T12:00:00+00:00", "fallback_reason": None}
WITHDRAWAL = {"expose": False, "event_time": "2026-01-01T12:00:01+00:00", "fallback_reason": "log"}
FELL_BACK = {"expose": False, "event_time": "2026-01-01T12:00:02+00:00", "fallback_reason": "ledger"}
LOG = [("shown", SHOWN), ("withdrawn", SHOWN), ("withdrawn", WITHDRAWAL), ("fell-back", FELL_BACK)]


def older(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A decision as it was logged before."""
    record = {**VERSION_1, **changes, "decision_id": name}
    return {field: value for field, value in record.items() if field != "withdrawn"}


def write_spool(folder: Path) -> Spool:
    spool = Spool(folder)
    for name, changes in LOG:
        record = older(name, changes)
        spool.submit("decision", {**record, "reservation_id": name if record["expose"] else None}).result(timeout=60)
    return spool


def test_older_decisions_are_shipped_and_their_withdrawals_have_ids_of_their_own() -> None:
    lines = [json.dumps(older(name, changes)).encode() for name, changes in LOG]
    sent = [events.attributes("decision", line, "/s")["id"] for line in lines]
    assert sent == ["shown", "withdrawn", "withdrawn.withdrawn", "fell-back"]


def test_the_reason_tells_of_an_older_record_whether_it_withdraws() -> None:
    assert [is_withdrawn(older(name, changes)) for name, changes in LOG] == [False, False, True, False]
    assert is_withdrawn({"withdrawn": True, "fallback_reason": None})
    assert not is_withdrawn({"withdrawn": False, "fallback_reason": "log"})


def test_of_older_decisions_the_withdrawal_is_exported(tmp_path: Path) -> None:
    write_spool(tmp_path / "spool").close()
    assert export_parquet(tmp_path / "spool", tmp_path / "out")["decision"] == 3
    query = f"SELECT decision_id, expose, withdrawn FROM '{tmp_path}/out/decisions.parquet' ORDER BY 1"
    expected = [("fell-back", False, False), ("shown", True, False), ("withdrawn", False, True)]
    assert duckdb.sql(query).fetchall() == expected


@pytest.mark.parametrize("also_newer", [False, True])
def test_parquet_files_without_the_field_are_exported_beside_those_with_it(tmp_path: Path, also_newer: bool) -> None:
    spool = write_spool(tmp_path / "spool")
    if also_newer:
        spool.submit("decision", {**RECORDS["decision"], "decision_id": "newer"}).result(timeout=60)
    spool.close()
    export_parquet(tmp_path / "spool", tmp_path / "whole")
    older_columns = ", ".join(name for name in VERSION_1 if name != "withdrawn")
    for hour, columns, where in (("11", older_columns, "<>"), ("12", "*", "=")):
        folder = tmp_path / "log" / "decisions" / "date=2026-01-01" / f"hour={hour}"
        folder.mkdir(parents=True)
        rows = duckdb.sql(
            f"SELECT {columns} FROM '{tmp_path}/whole/decisions.parquet' WHERE decision_id {where} 'newer'"
        )
        if len(rows):
            rows.write_parquet(str(folder / "part-0.parquet"))
    assert export_parquet(tmp_path / "log", tmp_path / "out")["decision"] == 3 + also_newer
    query = f"SELECT decision_id FROM '{tmp_path}/out/decisions.parquet' WHERE withdrawn"
    assert duckdb.sql(query).fetchall() == [("withdrawn",)]


def test_a_file_that_was_exported_before_can_be_read(tmp_path: Path) -> None:
    write_spool(tmp_path / "spool").close()
    export_parquet(tmp_path / "spool", tmp_path / "out")
    file = f"(SELECT * EXCLUDE (withdrawn) FROM '{tmp_path}/out/decisions.parquet')"
    assert len(duckdb.sql(one_record_each("decision", file))) == 3


def test_version_1_is_exported_beside_todays(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for record in (VERSION_1, {**RECORDS["decision"], "decision_id": "newer"}):
        spool.submit("decision", record).result(timeout=60)
    spool.close()
    export_parquet(tmp_path / "spool", tmp_path / "out")
    query = f"SELECT schema_version, decision_id, price, prices IS NULL, salt FROM '{tmp_path}/out/decisions.parquet'"
    assert sorted(duckdb.sql(query).fetchall()) == [
        (1, VERSION_1["decision_id"], 0.25, True, None),
        (5, "newer", 0.25, False, "2026-01-a"),
    ]


@pytest.mark.parametrize("record", [VERSION_1, VERSION_3], ids=["1", "3"])
def test_no_file_named_an_arm_before_it_was_a_field(tmp_path: Path, record: dict[str, Any]) -> None:
    spool = Spool(tmp_path / "spool")
    spool.submit("decision", record).result(timeout=60)
    spool.close()
    export_parquet(tmp_path / "spool", tmp_path / "out")
    file = f"'{tmp_path}/out/decisions.parquet'"
    assert duckdb.sql(f"SELECT override FROM {file}").fetchall() == [(False,)]
    for there in (file, f"(SELECT * EXCLUDE (override) FROM {file})"):
        assert duckdb.sql(f"SELECT override FROM ({one_record_each('decision', there)})").fetchall() == [(False,)]


def test_an_older_answer_is_repeated_by_a_newer_router() -> None:
    assert prediction_of(VERSION_1)["model"] == {"name": "challenger", "version": None, "digest": "sha256:1f2e3d"}
    cache = IdempotencyCache()
    now = datetime.now(UTC).isoformat()
    cache.load([{**VERSION_3, "event_time": now}], [])
    assert len(cache) == 1
    cache.load([{**VERSION_1, "event_time": now}], [])
    assert len(cache) == 1, "it does not say its salt: the request is decided anew, and nobody pays twice"


def test_older_events_say_which_version_they_are() -> None:
    lines = [json.dumps(record).encode() for record in (VERSION_1, RECORDS["decision"])]
    types = [events.attributes("decision", line, "/s")["type"] for line in lines]
    assert types == ["mtorl.decision.v1", "mtorl.decision.v5"]


def test_a_router_that_was_upgraded_keeps_open_what_was_shown_and_gives_back_the_rest(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 1.0)])
    for name in (
        "shown",
        "withdrawn",
        "fell-back",
    ):  # of the last, the ledger answered too late
        ledger.reserve(name, "a", "c", "video", 0.1)
    spool = write_spool(tmp_path / "spool")
    assert reconcile(ledger, spool) == 2
    assert ledger.open_reservations() == ["shown"]
    spool.close()

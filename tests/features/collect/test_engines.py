"""DuckDB and Spark collect the same, bit for bit: the hours of the store, and what a training reads of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.collect.store import collect
from features.collect.training_log import Decisions, add_decisions
from features.engine import open_engine
from mtorl.log.dataset import Column
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE
from tests.features.collect import test_store
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.features.collect.test_rules import RULES, data_folder, decisions_until_money_is_gone, market

NEVER = pd.Series([None] * 300, dtype="datetime64[us, UTC]")
ODD = SPEC.replace(
    context=(
        *SPEC.context,
        Column(name="order", kind="numeric", missing="zero"),  # a word of SQL
        Column(name="Group", kind="categorical", missing="unknown"),
    ),
    timed=("conversion",),
    outcomes=(Column(name="reserved", kind="numeric", missing="zero"),),  # called like a field of the record
)
LONG_AGO = {"order": 1.0, "Group": None, "reserved": 0.0, "conversion_time": NEVER}
Records = list[dict[str, Any]]


def everything() -> tuple[Records, Records]:
    """Decisions of every rule, money that is gone, faults, several models and arms; outcomes of every kind."""
    decisions = [*test_store.DECISIONS]
    outcomes = [*test_store.OUTCOMES]
    for i, (changes, told, _) in enumerate(RULES):
        decisions.append(decision(f"rule-{i}", 10 + i, campaign_id=f"c{i}", **changes))
        outcomes += [{**one, "event_id": f"{one['event_id']}-{i}", "decision_id": f"rule-{i}"} for one in told]
    decisions += [{**one, "campaign_id": f"{one['campaign_id']}2"} for one in decisions_until_money_is_gone()]
    random, heard = market(3, faults=0.1, lost=0.1, budget=True)
    decisions += [
        {**one, "arm": ("incumbent", "challenger")[i % 2], "model_digest": None, "model_version": str(i % 3)}
        for i, one in enumerate(random[:3000])
    ]
    outcomes += [one for one in heard if int(one["decision_id"][1:]) < 3000]
    context = {"hour": "14", "device": 3, "placement": 'a\\b"c', "order": 1e-7, "Group": "日本"}
    decisions += [
        decision("odd", 200, user_id="ü", context=context),
        decision("unknown", 201, context={"hour": "late", "device": None, "Group": "yes"}),
        decision("nothing", 202, context={}, features=None),
        decision("young", 5001, campaign_id="autumn"),
    ]
    # Their sum is another one in another order.
    costs = [0.1, 0.2, 0.3, 1e9, -0.7, 1e-9]
    outcomes += [outcome(f"odd-{i}", "odd", "revenue", cost, minutes=210 + i) for i, cost in enumerate(costs)]
    outcomes += [outcome(f"odd-c{i}", "odd", "cost", 0.1 * i) for i in range(7)]
    outcomes += [outcome(f"odd-k{i}", "odd", "conversion", 1.0, minutes=300 - i) for i in range(3)]
    outcomes += [outcome("odd-r", "odd", "reserved", 2.5)]
    return decisions, outcomes


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What each engine has collected, in three runs: two routers and a sink, late outcomes, a file that is cut off."""
    folder = tmp_path_factory.mktemp("collected")
    decisions, outcomes = everything()
    log = folder / "log"
    with open_engine("spark"):  # one for all runs
        write(log / "router-0", decisions[0:4000:2], outcomes[::3])
        write(log / "router-1", decisions[1:2000:2], outcomes[1::6])
        cut = write(log / "router-2", decisions[2001::2]) / "decisions.parquet"
        whole = cut.read_bytes()
        cut.write_bytes(whole[:-20])
        _typed_otherwise(log / "router-1" / "outcomes.parquet")
        first = _run(folder)
        assert first["cut"] and first["added"][0] > 2000

        cut.write_bytes(whole)
        hour = log / "outcomes" / "date=2026-01-01" / "hour=12"
        hour.mkdir(parents=True)
        write(folder / "flat", [], outcomes[2::3])
        (folder / "flat" / "outcomes.parquet").rename(hour / "part-1.parquet")
        assert not _run(folder)["cut"]

        # Some of it once more: what router-1 has, not router-0, or either of two differing copies would do.
        write(log / "router-3", decisions[5:50:14], [*outcomes[4::6], *outcomes[::50]])
        assert _run(folder, ("spark", "duckdb"))["hours"]  # either goes on with the other's store
        assert _run(folder)["hours"] == set()
        yield folder


def _typed_otherwise(file: Path) -> None:
    """As another sender would have written it."""
    table = pq.read_table(file)
    nanoseconds = pa.timestamp("ns", tz="UTC")  # as pandas writes times
    types = (("value", pa.decimal128(9, 2)), ("schema_version", pa.int8()), ("event_time", nanoseconds))
    for name, type_ in types:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(type_))
    pq.write_table(table, file)


def _run(folder: Path, engines: tuple[str, str] = ("duckdb", "spark")) -> dict[str, Any]:
    """Collect with both engines, into a store each; returns what both say and which hours were written."""
    both = []
    for engine, name in zip(engines, ("duckdb", "spark"), strict=True):
        store = folder / name
        before = _hours(store)
        found = collect(folder / "log", store, engine)
        hours = {name for name, mark in _hours(store).items() if before.get(name) != mark}
        both.append(
            {
                "added": (found.decisions, found.outcomes, found.hours, found.unknown),
                "cut": [Path(file).relative_to(folder) for file in found.unreadable],
                "hours": hours,
            }
        )
    assert both[0] == both[1]
    return both[0]


def _hours(store: Path) -> dict[str, int]:
    return {str(file.relative_to(store)): file.stat().st_mtime_ns for file in store.rglob("part.parquet")}


def sorted_rows(file: Path, *keys: str) -> pa.Table:
    return pq.read_table(file, partitioning=None).sort_by([(key, "ascending") for key in keys])


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether names, types and all bits of the values are the same; where there are no nulls is not always said."""
    columns = [[(field.name, str(field.type).replace(" not null", "")) for field in t.schema] for t in (one, other)]
    return columns[0] == columns[1] and repr(one.to_pydict()) == repr(other.to_pydict())


@pytest.mark.long
def test_the_hours_of_the_store_are_the_same(stores: Path) -> None:
    files = sorted(_hours(stores / "duckdb"))
    assert files == sorted(_hours(stores / "spark")) and len(files) > 6
    for name in [*files, "unknown.parquet"]:
        keys = ("decision_id" if name.startswith("decisions") else "event_id", "event_time")
        assert same(*(sorted_rows(stores / engine / name, *keys) for engine in ("duckdb", "spark"))), name
    assert {path.name for path in (stores / "spark").iterdir()} == {path.name for path in (stores / "duckdb").iterdir()}


@pytest.mark.long
@pytest.mark.parametrize("most_touchpoints", [0, 500])
def test_a_training_reads_the_same(stores: Path, tmp_path: Path, most_touchpoints: int) -> None:
    which = Decisions(outcome_hours=1.0, most_touchpoints=most_touchpoints)
    found, noted = [], []
    for engine in ("duckdb", "spark"):
        folder = data_folder(tmp_path / engine, 300, ODD, **LONG_AGO)
        found.append(add_decisions(stores / "duckdb", folder, which, engine))
        noted.append(json.loads((folder / INGEST_FILE).read_text()))
    for name, keys in ((OPPORTUNITIES_FILE, ("decision_id",)), (LOG_FILE, ("user_id", "timestamp", "campaign_id"))):
        one, other = (sorted_rows(tmp_path / engine / name, *keys) for engine in ("duckdb", "spark"))
        assert len(one) > 300 and same(one, other), name
    reasons = {expected for *_, expected in RULES if "exposed" not in expected}
    assert set(found[0].left_out) == {*reasons, "not_mature"}
    assert str(found[0]) == str(found[1]) and (found[0].pruned > 0) == (most_touchpoints > 0)
    assert noted[0]["rows"] == noted[1]["rows"]

"""Tests that DuckDB and Spark compact a lake to identical files and read the same training data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.collect.compact import compact
from features.collect.database import open_duckdb
from features.collect.training_log import add_decisions
from features.engine import open_engine
from mtorl.log.dataset import Column
from mtorl.log.lake import Lake
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE
from tests.features.collect import records
from tests.features.collect.decision_logs import SPEC, add, decision, outcome, write
from tests.features.collect.test_compact import KINDS, LATER
from tests.features.collect.test_rules import RULES, data_folder, decisions_until_money_is_gone, market

NEVER = pd.Series([None] * 300, dtype="datetime64[us, UTC]")
ODD = SPEC.replace(
    context=(
        *SPEC.context,
        Column(name="order", kind="numeric", missing="zero"),  # an SQL keyword
        Column(name="Group", kind="categorical", missing="unknown"),
    ),
    timed=("conversion",),
    outcomes=(Column(name="reserved", kind="numeric", missing="zero"),),  # also the name of a record field
)
LONG_AGO = {"order": 1.0, "Group": None, "reserved": 0.0, "conversion_time": NEVER}
Records = list[dict[str, Any]]


def everything() -> tuple[Records, Records]:
    """Return decisions and outcomes to which every rule about training data applies."""
    decisions = [*records.DECISIONS]
    outcomes = [*records.OUTCOMES]
    for i, (changes, told, _) in enumerate(RULES):
        decisions.append(decision(f"rule-{i}", 10 + i, campaign_id=f"c{i}", **changes))
        outcomes += [{**one, "event_id": f"{one['event_id']}-{i}", "decision_id": f"rule-{i}"} for one in told]
    decisions += [{**one, "campaign_id": f"{one['campaign_id']}2"} for one in decisions_until_money_is_gone()]
    random, heard = market(3, faults=0.1, lost=0.1, budget=True)
    decisions += [
        {**one, "arm": ("incumbent", "challenger")[i % 2], "model_digest": None, "model_version": str(i % 3)}
        | {"window": {"context": {"hour": [float(i)]}}}
        for i, one in enumerate(random[:3000])
    ]
    outcomes += [one for one in heard if int(one["decision_id"][1:]) < 3000]
    context = {"hour": "14", "device": 3, "placement": 'a\\b"c', "order": 1e-7, "Group": "日本"}
    decisions += [
        decision("odd", 200, user_id="ü", context=context),
        decision("unknown", 201, context={"hour": "late", "device": None, "Group": "yes"}),
        decision("nothing", 202, context={}, static=None),
        decision("young", 5001, campaign_id="autumn"),
    ]
    # The floating-point sum of these values depends on their order.
    costs = [0.1, 0.2, 0.3, 1e9, -0.7, 1e-9]
    outcomes += [outcome(f"odd-{i}", "odd", "revenue", cost, minutes=210 + i) for i, cost in enumerate(costs)]
    outcomes += [outcome(f"odd-c{i}", "odd", "cost", 0.1 * i) for i in range(7)]
    outcomes += [outcome(f"odd-k{i}", "odd", "conversion", 1.0, minutes=300 - i) for i in range(3)]
    outcomes += [outcome("odd-r", "odd", "reserved", 2.5)]
    return decisions, outcomes


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return one lake per engine, with late, duplicate and truncated uploads, compacted in three runs."""
    folder = tmp_path_factory.mktemp("lakes")
    decisions, outcomes = everything()
    some = (decisions[0:4000:2], decisions[1::2], decisions[5:50:14])
    parts = [(rows, outcomes[number::3]) for number, rows in enumerate(some)]
    with open_engine("spark"):  # one session for all runs
        for number, part in enumerate(parts):
            for engine in ("duckdb", "spark"):
                lake = Lake.open((write if number == 0 else add)(folder / engine, *part))
                if number == 1:
                    file = folder / engine / lake.arrived("decision")[-1].name
                    file.with_name("cut.parquet").write_bytes(file.read_bytes()[:-20])
                done = compact(lake, LATER, engine)
                assert len(done.hours) > 1 and len(done.unreadable) == (number == 1)
                assert not lake.arrived("decision") and not list((folder / engine).glob(".compact*"))
        yield folder


def sorted_rows(file: Path, *keys: str) -> pa.Table:
    return pq.read_table(file, partitioning=None).sort_by([(key, "ascending") for key in keys])


def same(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables are equal; a column may be nullable in only one of them."""
    columns = [[(field.name, str(field.type).replace(" not null", "")) for field in t.schema] for t in (one, other)]
    return columns[0] == columns[1] and repr(one.to_pydict()) == repr(other.to_pydict())


@pytest.mark.long
def test_closed_hours_are_identical(lakes: Path) -> None:
    for kind in KINDS:
        found, hours = [], []
        for engine in ("duckdb", "spark"):
            lake = Lake.open(lakes / engine)
            hours.append({file.hour for file in lake.closed(kind)})
            for file in lake.closed(kind):
                rows = pq.read_table(lakes / engine / file.name, partitioning=None)
                assert set(rows["hour"].to_pylist()) == {file.hour}
                keys = list(zip(rows["bucket"].to_pylist(), rows["decision_id"].to_pylist(), strict=True))
                assert keys == sorted(keys), "the rows of a file are sorted"
            with open_duckdb(lake) as db:
                found.append(sorted(map(repr, db.execute(f"FROM {lake.records(db, kind)}").fetchall())))
        assert hours[0] == hours[1] and found[0] == found[1] and len(found[0]) > 1000, kind


@pytest.mark.long
@pytest.mark.parametrize("most_touchpoints", [0, 500])
def test_training_data_are_identical(lakes: Path, tmp_path: Path, most_touchpoints: int) -> None:
    found, noted = [], []
    for engine in ("duckdb", "spark"):
        folder = data_folder(tmp_path / engine, 300, ODD.replace(outcome_hours=1.0), **LONG_AGO)
        found.append(add_decisions(lakes / "spark", folder, "", most_touchpoints, engine))
        noted.append(json.loads((folder / INGEST_FILE).read_text()))
    for name, keys in ((OPPORTUNITIES_FILE, ("decision_id",)), (LOG_FILE, ("user_id", "timestamp", "campaign_id"))):
        one, other = (sorted_rows(tmp_path / engine / name, *keys) for engine in ("duckdb", "spark"))
        assert len(one) > 300 and same(one, other), name
    reasons = {expected for *_, expected in RULES if "exposed" not in expected}
    assert set(found[0].left_out) == {*reasons, "not_mature"}
    assert str(found[0]) == str(found[1]) and (found[0].pruned > 0) == (most_touchpoints > 0)
    assert noted[0]["rows"] == noted[1]["rows"]

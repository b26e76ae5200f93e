"""Tests of the rows that a training makes from decisions and stores for the next training."""

import os
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.collect import stored_rows
from features.collect.compact import compact
from features.collect.removal import drop_hours, forget_in_bucket, remove_again, remove_users
from features.collect.stored_rows import Decided
from features.collect.training_log import Learnable, add_decisions, learnable
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.records import unit_hash
from mtorl.log.touchpoints import LOG_FILE
from tests.features.collect.decision_logs import SPEC, START, add, decision, outcome
from tests.features.collect.test_rules import NOTHING, data_folder

DAY = timedelta(days=1)
Records = list[dict[str, Any]]
Tables = tuple[pd.DataFrame, pd.DataFrame, Learnable]


def of_day(day: int, chance: random.Random) -> tuple[Records, Records]:
    """Return a day's decisions, with late outcomes and with budget refusals of various lengths."""
    decisions, outcomes = [], []
    for i in range(120):
        minutes, name = day * 1440 + chance.uniform(-700, 700), f"{day}-{i}"
        account = {"arm": chance.choice(["a", "b"]), "campaign_id": chance.choice(["spring", "summer", "autumn"])}
        changes: dict[str, Any] = {"user_id": f"u{chance.randrange(40)}", "model_digest": f"{day // 3}", **account}
        changes |= {"window": {"number": i}}
        if chance.random() < 0.03:
            lasts = chance.choice([-10, 30, 300, 2000, None])
            until = None if lasts is None else (START + timedelta(minutes=minutes + lasts)).isoformat()
            until = until if account["campaign_id"] != "autumn" or lasts else None
            changes |= {"budget_exhausted": True, "refused_until": until or "2026-01-09T00:00:00+00:00", **NOTHING}
        elif chance.random() < 0.1:
            changes |= {"fallback_reason": "ledger", **NOTHING}
        elif chance.random() < 0.05:
            changes |= {"context": {"device": "phone"}}
        decisions.append(decision(name, minutes, **changes))
        if changes.get("expose", True):
            outcomes.append(outcome(f"{name}-cost", name, minutes=minutes + 1))
            if chance.random() < 0.5:
                late = minutes + chance.uniform(1, 4 * 1440)
                outcomes.append(outcome(f"{name}-click", name, "click", 1.0, minutes=late))
    return decisions, outcomes


def read(place: Path, folder: Path, outcome_hours: float = 0.0, **which: Any) -> Tables:
    shutil.rmtree(folder, ignore_errors=True)
    data = data_folder(folder, 20, SPEC.replace(outcome_hours=outcome_hours))
    found = add_decisions(place, data, **which)
    keys = {OPPORTUNITIES_FILE: ["decision_id"], LOG_FILE: ["user_id", "timestamp"]}
    opportunities, touchpoints = (pd.read_parquet(data / name).sort_values(key) for name, key in keys.items())
    return opportunities.reset_index(drop=True), touchpoints.reset_index(drop=True), found


def anew(place: Path, folder: Path, **which: Any) -> Tables:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder / "lake", ignore=shutil.ignore_patterns("judged"))
    return read(folder / "lake", folder / "data", **which)


def same(one: Tables, other: Tables) -> None:
    for here, there in zip(one[:2], other[:2], strict=True):
        pd.testing.assert_frame_equal(here, there)
    assert one[2] == other[2]


def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each processed block adds its number of decisions."""
    counts: list[int] = []
    usual = Decided._store

    def counting(self: Decided, *block: Any) -> list[str]:
        names = usual(self, *block)
        counts.append(self._db.execute("SELECT count(*) FROM collected_decision").fetchall()[0][0])
        return names

    monkeypatch.setattr(Decided, "_store", counting)
    return counts


def test_each_night_reads_the_same_rows_as_without_stored_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, place, late = random.Random(5), tmp_path / "lake", []
    counts, nights = judged(monkeypatch), list[int]()
    for day in range(5):
        decisions, outcomes = of_day(day, chance)
        outcomes, late = [*outcomes, *late], []
        end = START + timedelta(minutes=day * 1440 + 720)
        late = [one for one in outcomes if datetime.fromisoformat(one["received_time"]) >= end]
        known = [one for one in outcomes if datetime.fromisoformat(one["received_time"]) < end]
        if day == 2:
            decisions, delayed = decisions[1:], decisions[:1]
        if day == 3:
            decisions += delayed
        add(place, decisions, known)
        compact(Lake.open(place), end - timedelta(hours=3))  # the last hours stay open
        if day == 3:
            forget_in_bucket(Lake.open(place), {"u1", "u7"}, end)
            drop_hours(Lake.open(place), START.replace(hour=0) + timedelta(hours=3))
        counts.clear()
        which = {"outcome_hours": 24.0, "snapshot": end.isoformat()}
        found = read(place, tmp_path / "data", **which)
        night = sum(counts)
        same(found, anew(place, tmp_path / "anew", **which))
        nights.append(night)
        if day > 2:
            few = {"most_touchpoints": 60}
            same(read(place, tmp_path / "data", **few), anew(place, tmp_path / "anew", **few))
    assert max(*nights[:3], nights[4]) < 300, "a night judges at most two days"
    assert {"budget_gone", "not_mature", "other_columns"} <= set(found[2].left_out)
    assert len(found[0]) > 300 and len(found[1]) > 300


def test_above_the_bound_decisions_of_some_users_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, chance = tmp_path / "lake", random.Random(1)
    for day in range(4):
        add(place, *of_day(day, chance))
    compact(Lake.open(place), START + 9 * DAY)
    whole = read(place, tmp_path / "data")
    monkeypatch.setattr(stored_rows, "MOST_SAMPLED", 240)
    found = read(place, tmp_path / "data")
    assert found[1].equals(whole[1]), "a bound on decisions dropped touchpoints"
    report = found[2]
    assert 0.3 < report.decisions / whole[2].decisions < 0.7 and report.share == 0.5
    assert set(found[0]["user_id"]) < set(whole[0]["user_id"])
    some = whole[0][whole[0]["user_id"].isin(found[0]["user_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some.drop(columns="exposure_probs"), found[0].drop(columns="exposure_probs"))
    counts: list[int] = []
    usual = Decided.judge

    def counting(self: Decided, *which: Any) -> None:
        usual(self, *which)
        counts.append(self._db.execute("SELECT count(*) FROM judged").fetchall()[0][0])

    monkeypatch.setattr(Decided, "judge", counting)
    few = read(place, tmp_path / "data", most_touchpoints=60)
    assert 30 < len(few[1]) < 90 and counts[-1] < whole[2].decisions, "read generations that are left out"
    assert learnable(place, SPEC).decisions == report.decisions


def test_a_read_only_lake_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = add(tmp_path / "lake", *of_day(0, random.Random(2)))
    compact(Lake.open(place), START + 2 * DAY)
    expected = anew(place, tmp_path / "anew")

    def refused(*_: Any) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(Lake, "put", refused)
    same(read(place, tmp_path / "data"), expected)
    assert not Lake.open(place).derived("judged")


def test_a_user_forgotten_while_rows_are_stored_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are stored, one process removes the user, and another drops the old hour."""
    place = add(tmp_path / "lake", *of_day(0, random.Random(4)))
    lake = Lake.open(place)
    compact(lake, START + 2 * DAY)
    put, now = Lake.put, START + 2 * DAY
    lake.forget({"u3"}, now - DAY)
    begun: list[str] = []

    def forgetting(self: Lake, file: Path, name: str) -> None:
        if name.startswith("judged"):
            begun.append(name)
            if len(begun) == 1:
                remove_users(Lake.open(place), Forgotten({unit_hash("u3"): now}))
            if len(begun) == 2:
                drop_hours(Lake.open(place), START)
        put(self, file, name)  # this writer is slower

    monkeypatch.setattr(Lake, "put", forgetting)
    assert "u3" not in set(read(place, tmp_path / "data")[1]["user_id"])
    assert not with_user(place, "u3") and with_user(place, "u4")
    (left,) = lake.derived("judged")
    assert len(begun) == 3 and left.hour == START


def with_user(place: Path, user: str) -> list[str]:
    files = Lake.open(place).derived("judged")
    return [file.name for file in files if user in set(pd.read_parquet(place / file.name)["user_id"])]


@pytest.mark.parametrize(("user", "left"), [("u1", 14), ("u3", 13), ("u4", 4)])
def test_forgetting_keeps_others_rows(user: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {3: START + timedelta(minutes=8), 4: START + DAY}
    decisions = [
        decision(
            f"d{i}",
            i,
            user_id=f"u{i % 5}",
            **({"budget_exhausted": True, "refused_until": gone[i].isoformat(), **NOTHING} if i in gone else {}),
        )
        for i in range(20)
    ]
    place = add(tmp_path / "lake", decisions)
    lake = Lake.open(place)
    compact(lake, START + 2 * DAY)
    before = read(place, tmp_path / "data")
    counts = judged(monkeypatch)
    forget_in_bucket(lake, {user}, START + DAY)
    after = read(place, tmp_path / "data")
    same(after, anew(place, tmp_path / "anew"))
    assert counts[:-1] == ([] if user == "u1" else [16]), "the last count comes from `anew`"
    assert before[2].left_out == {"budget_gone": 17} and after[2].left_out == {"budget_gone": left}


def test_a_forgotten_user_leaves_rows_stored_by_a_killed_writer(tmp_path: Path) -> None:
    place, now = add(tmp_path / "lake", *of_day(0, random.Random(4))), datetime.now(UTC)
    lake = Lake.open(place)
    compact(lake, START + 2 * DAY)
    learnable(place, SPEC)
    (name,) = with_user(place, "u3")
    table = (place / name).read_bytes()
    forget_in_bucket(lake, {"u3"}, now)
    assert not with_user(place, "u3")
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    # Restore the file of a training that was killed before it checked for forgotten users.
    (place / name).write_bytes(table)
    remove_again(lake, now)
    assert not with_user(place, "u3")


def test_old_rows_and_rows_of_another_description_are_removed(tmp_path: Path) -> None:
    place = add(tmp_path / "lake", *of_day(0, random.Random(4)))
    lake = Lake.open(place)
    compact(lake, START + 2 * DAY)
    learnable(place, SPEC)
    (old,) = lake.derived("judged")
    narrower = SPEC.replace(context=SPEC.context[:1])
    learnable(place, narrower)
    assert len(lake.derived("judged")) == 2, "a running training may use either"
    forget_in_bucket(lake, {"u3"}, START + DAY)
    assert not with_user(place, "u3") and len(with_user(place, "u4")) == 2
    (old,) = (file for file in lake.derived("judged") if file.name.startswith(old.name.partition(".")[0]))
    ago = (datetime.now(UTC) - 2 * DAY).timestamp()
    os.utime(place / old.name, (ago, ago))
    learnable(place, narrower)
    assert old.name in lake.superseded() and len(lake.derived("judged")) == 1
    assert drop_hours(lake, START + DAY)["decisions"] and not lake.derived("judged")

"""Tests that a run's traffic is split into days, and the complete days are judged."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from monitoring.watch.check import folder_of
from monitoring.watch.state import Alarm, Group, NotJudged, State, Stream
from mtorl.log.decision_ids import time_of
from mtorl.log.lake import Lake
from mtorl.log.records import Kind
from pipelines.loop.monitored_days import date_records, figures_of
from pipelines.loop.traffic import Traffic
from tests.lakes import ids_in, upload

START = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)  # midnight falls within the live traffic
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def traffic(minute: int) -> Traffic:
    since = START + timedelta(minutes=minute)
    return Traffic(since=since, until=since + timedelta(minutes=5))


def test_live_users_come_on_one_day_and_shifted_users_on_each_day(tmp_path: Path) -> None:
    taken = [(f"live-{turn}-{user}", user, turn) for turn in range(3) for user in "abcd"]
    taken += [("promoted-0-a", "a", 7)]
    taken += [(f"shifted-{turn}-{user}", user, 10 + turn) for turn in range(2) for user in "ab"]
    decisions = pd.DataFrame(taken, columns=["decision_id", "user_id", "minute"])
    decisions["event_time"] = [(START + timedelta(minutes=m)).isoformat() for m in decisions.pop("minute")]
    withdrawn = decisions.head(1).assign(event_time=(START + timedelta(minutes=0.5)).isoformat())
    log, dated = Lake.open(tmp_path / "log"), Lake.open(tmp_path / "anna's")
    outcomes = decisions[["decision_id", "event_time"]].assign(value=1.0, kind="cost")
    upload(log, {"decision": pd.concat([decisions, withdrawn]), "outcome": outcomes})

    date_records(log, traffic(0), traffic(10), FIRST_DAY, dated)

    names = {made[14:]: name for name, made in ids_in(log).items()}
    kinds: tuple[Kind, ...] = ("decision", "outcome")
    for kind in kinds:
        (file,) = dated.arrived(kind)
        found = pd.read_parquet(tmp_path / "anna's" / file.name)
        at = pd.to_datetime(found["event_time"], utc=True)
        assert (found["hour"] == at.dt.floor("h")).all() and found["decision_id"].map(time_of).tolist() == at.tolist()
        found["day"] = (at - FIRST_DAY).dt.days
        assert ((at.dt.hour == 12) & (at.dt.minute < 5)).all()
        name = found["decision_id"].str[14:].map(names).str.split("-", expand=True)
        live, shifted = name[0] == "live", name[0] == "shifted"
        assert (live | shifted).all() and live.sum() == 12 and shifted.sum() == 4
        days = found[live].groupby(name[2])["day"].unique().map(list).to_dict()
        assert days == {"a": [1], "b": [0], "c": [1], "d": [0]}, "each day has half of the users, complete"
        assert (found["day"][shifted] == 2 + name[1][shifted].astype(int)).all()


def test_figures_of_judged_and_unjudged_days(tmp_path: Path) -> None:
    page = folder_of(tmp_path / "monitor", FIRST_DAY) / "drift.html"
    page.parent.mkdir(parents=True)
    page.touch()
    alarm = Alarm(kind="drift", since=FIRST_DAY, text="hour has moved")
    found = figures_of(
        tmp_path,
        State(
            checked=FIRST_DAY,
            groups={"context": Group(end=FIRST_DAY + timedelta(days=1), decisions=7, users=3)},
            streams={"context/hour": Stream(value=2.0, expected=0.1, alarm=alarm), "outcomes/x": Stream(value=1.0)},
        ),
    )
    assert (found["word"], found["decisions"], found["users"], found["not_judged"]) == ("moved", 7, 3, None)
    assert found["columns"] == [{"column": "hour", "score": 2.0, "threshold": 0.1}]
    assert [(one["stream"], one["kind"]) for one in found["alarms"]] == [("context/hour", "drift")]
    assert found["pages"] == [str(page.relative_to(tmp_path))], "the page of the last complete day"
    why = NotJudged(reason="unreadable_log", text="no Parquet file")
    found = figures_of(tmp_path, State(checked=FIRST_DAY, groups={"context": Group(end=FIRST_DAY, not_judged=why)}))
    assert (found["word"], found["not_judged"], found["columns"]) == ("not judged", "no Parquet file", [])
    found = figures_of(tmp_path, State(checked=FIRST_DAY))  # before the first decision in the log
    assert (found["word"], found["alarms"]) == ("not judged", []) and found["not_judged"]

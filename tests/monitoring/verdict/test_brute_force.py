"""Tests that the sums for a verdict equal those of a slow loop over all records."""

import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.collect.compact import compact
from features.collect.removal import forget_in_bucket
from monitoring.decision_log import DecisionLog, Period
from monitoring.verdict.experiment_users import Users, experiment_users
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.log.lake import Lake
from mtorl.log.records import unit_hash
from tests.lakes import upload
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import BEGIN, Log
from tests.properties import examples

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIRST = BEGIN.to_pydatetime()
ARMS, STAGES = ["incumbent", "challenger"], ["1%", "5%", "25%", "50%"]
EXPERIMENT = Experiment.from_dict(
    {
        **CONTENT,
        "metrics": {**CONTENT["metrics"], "outcome_hours": 20.0},
        "budgets": [
            {**CONTENT["budgets"][0], "campaign": "daily", "period": "day", "timezone": "Asia/Kolkata"},
            {**CONTENT["budgets"][0], "campaign": "total"},
        ],
    }
)
KOLKATA = timedelta(hours=5, minutes=30)


class Visit(NamedTuple):
    """A random action of a user, which leads to at most one request."""

    minute: int
    user: int
    stage: str
    campaign: str
    kind: str
    # Kind, value, and hours after the decision.
    outcomes: tuple[tuple[str, int, int], ...]


KINDS = ["plain"] * 6 + ["withdrawn", "copied", "repeated", "override", "crossed", "off", "other", "salt", "weights"]
KINDS += ["outside"]
VISITS = st.builds(
    Visit,
    minute=st.integers(0, 70 * 60),
    user=st.integers(0, 5),
    stage=st.sampled_from(["5%", "50%", "50%"]),
    campaign=st.sampled_from(["daily", "total"]),
    kind=st.sampled_from(KINDS),
    outcomes=st.lists(
        st.tuples(st.sampled_from(["click", "cost"]), st.integers(1, 9), st.sampled_from([0, 1, 19, 20, 21, 30])),
        max_size=3,
    ).map(tuple),
)


def _log(visits: list[Visit], changed_at: int, experiment: Experiment = EXPERIMENT) -> Log:
    log = Log()
    for number, visit in enumerate(sorted(visits)):
        at = FIRST + timedelta(minutes=visit.minute, seconds=number % 50)
        arms = [each.name for each in experiment.arms]
        arm = arms[(visit.user + (visit.kind == "crossed")) % len(arms)]
        share = experiment.replace(stage=visit.stage).shares()[arm]
        own: dict[str, Any] = {
            "stage": visit.stage,
            "assignment_probability": share,
            "salt": experiment.salt,
            "layer": experiment.layer,
            "unit_hash": unit_hash(f"u{visit.user}"),
            "campaign_id": visit.campaign,
            # In another hour, the same request id is a new request.
            "request_id": f"r{visit.minute % 60}",
            "model_digest": "first" if visit.minute < changed_at and arm == "challenger" else arm,
            "expose": number % 3 > 0,
            "event_time": at.isoformat(),
        }
        own |= {
            "override": {"override": True, "assignment_probability": 1.0},
            "off": {"stage": "off", "assignment_probability": 1.0, "arm": "incumbent"},
            "outside": {"assignment_probability": 1.0, "arm": "outside"},
            "other": {"experiment": "another"},
            "salt": {"salt": "another"},
            "weights": {"assignment_probability": share / 2},
        }.get(visit.kind, {})
        decision = log.decide(f"u{visit.user}", own.pop("arm", arm), **own)
        row = log.decisions[-1]
        later = {"event_time": (at + timedelta(seconds=2)).isoformat()}
        if visit.kind == "copied":
            log.decisions.append({**row})
        if visit.kind == "withdrawn":
            log.decisions.append({**row, "withdrawn": True, "expose": False, **later})
        if visit.kind == "repeated":
            log.decisions.append({**row, "decision_id": f"{decision} again", "expose": False, **later})
        for kind, value, hours in visit.outcomes:
            known = (at + timedelta(hours=hours, seconds=1 if hours == 20 else 0)).isoformat()
            of = f"{decision} again" if visit.kind == "repeated" else decision
            log.learn(of, kind, float(value), event_time=known, received_time=known)
            if value == 9:
                log.outcomes.append({**log.outcomes[-1]})
    return log


def _counted(log: Log) -> list[dict[str, Any]]:
    """Return one record per decision, with its hour and its budget period's start."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.decisions:
        found[row["decision_id"]].append({**row, "decided": datetime.fromisoformat(row["event_time"])})
    rows = []
    for copies in found.values():
        row = min(copies, key=lambda row: (not row["withdrawn"], row["decided"]))
        taken = min(row["decided"] for row in copies)
        local = row["decided"] + KOLKATA
        began = datetime(local.year, local.month, local.day, tzinfo=UTC) - KOLKATA
        timed = row["campaign_id"] == "daily"
        hour = taken.replace(minute=0, second=0, microsecond=0)
        rows.append({**row, "taken": taken, "hour": hour, "began": began if timed else None})
    return rows


def _left_out(log: Log, since: datetime | None) -> dict[str, str | None]:
    """Return, for each decision, why a verdict leaves the decision out, or None if it counts."""
    named: dict[str, datetime] = {}
    named_in: dict[tuple[str, datetime], datetime] = {}  # by user and hour
    for row in log.decisions:
        if row["override"] and row["experiment"] == "test" and row["salt"] == EXPERIMENT.salt:
            at = datetime.fromisoformat(row["event_time"])
            named[row["user_id"]] = min(at, named.get(row["user_id"], at))
            named_in.setdefault((row["user_id"], _hour(row)), at)  # the first time of each hour
    rows = [row for row in _counted(log) if since is None or row["decided"] >= since]
    ours = [row for row in rows if row["experiment"] == "test"]
    newest = max((row["decided"] for row in rows), default=FIRST)
    answers: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for row in ours:
        if row["salt"] == EXPERIMENT.salt and row["assignment_probability"] < 1:
            answers[row["arm"]].append((row["decided"], row["model_digest"]))
    changes = [at for of_arm in answers.values() for at, digest in of_arm if digest != max(of_arm)[1]]
    changed = max(changes, default=None)
    last = {hour: max(row["decided"] for row in ours if row["hour"] == hour) for hour in {row["hour"] for row in ours}}
    found: dict[str, str | None] = {}
    for row in rows:
        shares = EXPERIMENT.replace(stage=row["stage"]).shares() if row["stage"] in STAGES else {}
        ends = None if row["began"] is None else row["began"] + DAY
        same_day = [other for other in ours if other["began"] == row["began"] is not None]
        reasons = {
            "other_experiment": row["experiment"] != "test" or row["salt"] != EXPERIMENT.salt,
            "override": row["taken"] >= named.get(row["user_id"], row["taken"] + DAY),
            "outside": row["arm"] == "outside",
            "not_randomised": row["assignment_probability"] >= 1,
            "other_model": changed is not None and (row["began"] or row["hour"]) <= changed,
            "other_weights": abs(row["assignment_probability"] - shares.get(row["arm"], 9.0)) > 1e-9,
            "repeated": row["decision_id"].endswith("again"),
            "unfinished_period": ends is not None and (ends > newest or (since is not None and row["began"] < since)),
            "immature": (ends or last.get(row["hour"], newest)) + 20 * HOUR > newest,
            "switched_off": any(other["stage"] == "off" for other in same_day),
            "changed_period": any(len({other[name] for other in same_day}) > 1 for name in ("stage", "salt")),
        }
        # "override" is the reason only for decisions without another reason.
        not_yet_here = row["taken"] < named_in.get((row["user_id"], row["hour"]), row["taken"] + DAY)
        if reasons["override"] and row["hour"] > named[row["user_id"]] and not_yet_here:
            reasons["override"] = row["assignment_probability"] < 1 and not reasons["repeated"]
        found[row["decision_id"]] = next((reason for reason, holds in reasons.items() if holds), None)
    return found


def _rows(log: Log, left_out: dict[str, str | None], changed: bool) -> dict[tuple[str, str, str], np.ndarray]:
    """Return decisions, exposures, timely clicks, timely costs, late clicks and late costs by user, stage and arm."""
    counts = {None, "switched_off", "changed_period"} if changed else {None}
    rows = {row["decision_id"]: row for row in _counted(log)}
    sums: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(6))
    for name, row in rows.items():
        if name in left_out and left_out[name] in counts:
            sums[row["user_id"], row["stage"], row["arm"]] += [1, row["expose"], 0, 0, 0, 0]
    for outcome in {outcome["event_id"]: outcome for outcome in log.outcomes}.values():
        own = rows[outcome["decision_id"]]
        row = rows[outcome["decision_id"].removesuffix(" again")]
        if left_out.get(row["decision_id"], "") in counts:
            late = datetime.fromisoformat(outcome["received_time"]) > own["taken"] + 20 * HOUR
            place = 2 + (outcome["kind"] == "cost") + 2 * late
            sums[row["user_id"], row["stage"], row["arm"]][place] += outcome["value"]
    arms = Counter((user, stage) for user, stage, _ in sums)
    return {key: value for key, value in sums.items() if arms[key[:2]] == 1}


class Kept(Log):
    """A log whose records reach a lake over time. The lake is compacted each hour."""

    def __init__(self, log: Log, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._coming = [(_arrives(row), "decision", row) for row in log.decisions]
        self._coming += [(datetime.fromisoformat(row["received_time"]), "outcome", row) for row in log.outcomes]

    def go_on(self, until: datetime) -> DecisionLog:
        """Upload all records until a time, those of closed hours first, and compact."""
        come = [(kind, row) for at, kind, row in self._coming if at <= until]
        self._coming = [each for each in self._coming if each[0] > until]
        self.decisions += [row for kind, row in come if kind == "decision"]
        self.outcomes += [row for kind, row in come if kind == "outcome"]
        hours = {row["decision_id"]: _hour(row) for row in self.decisions if not row["withdrawn"]}
        for over in (True, False):
            arriving = [(of, row) for of, row in come if (hours[row["decision_id"]] + CLOSES <= until) == over]
            for kind in ("decision", "outcome"):
                upload(self._folder, {kind: pd.DataFrame([row for of, row in arriving if of == kind]).astype(object)})
            if over:
                compact(Lake.open(self._folder), until)
        return DecisionLog.of(self._folder)


CLOSES = timedelta(minutes=70)
READ_AT_ONCE = patch("features.collect.compact.LATE_AFTER", -HOUR)
"""Reads late outcomes immediately; otherwise they are read days later."""


def _arrives(row: dict[str, Any]) -> datetime:
    """Return the upload time of a record. Some withdrawals come after their hour was closed."""
    at = datetime.fromisoformat(row["event_time"])
    return at + 3 * HOUR if row["withdrawn"] and row["user_id"] < "u3" else at


def _hour(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["event_time"]).replace(minute=0, second=0, microsecond=0)


COLUMNS = ["decisions", "exposures", "outcome:click", "outcome:cost", "late:click", "late:cost"]


def _same(found: Users, rows: dict[tuple[str, str, str], np.ndarray]) -> None:
    places = [found.sums.columns.index(name) for name in COLUMNS]
    cells = [(stage, arm) for stage in STAGES for arm in ARMS]
    totals, users = np.zeros((8, 6)), np.zeros(8)
    products = np.zeros((8, 6, 8, 6))
    for (user, stage, arm), row in rows.items():
        cell = cells.index((stage, arm))
        totals[cell] += row
        users[cell] += 1
        for (who, other, of), values in rows.items():
            if who == user:
                products[cell, :, cells.index((other, of))] += np.outer(row, values)
    assert found.sums.users_C.tolist() == users.tolist()
    assert found.totals_CB[:, places] == pytest.approx(totals, abs=1e-9)
    assert found.sums.products_CBCB[:, places][:, :, :, places] == pytest.approx(products, abs=1e-9)
    assert found.count(*ARMS) == len({user for user, _, _ in rows})
    assert found.moved == sum(len({arm for who, _, arm in rows if who == user}) > 1 for user in {u for u, _, _ in rows})


@settings(max_examples=examples(20, 60))
@given(
    st.lists(VISITS, min_size=1, max_size=30, unique_by=lambda visit: visit.minute),
    st.sampled_from([0, 0, 24 * 60]),
    st.sampled_from([None, FIRST + 7 * HOUR]),
    st.sampled_from([3, 500_000]),
)
def test_sums_of_a_verdict_equal_the_brute_force_sums(
    visits: list[Visit], changed_at: int, since: datetime | None, rows_at_once: int
) -> None:
    log = _log(visits, changed_at)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("monitoring.verdict.experiment_users._ROWS_AT_ONCE", rows_at_once),
    ):
        files = replace(log.write(Path(folder)), period=Period(since))
        with experiment_users(files, EXPERIMENT, CLICK) as read:
            found = [read.users(changed) for changed in (False, True)]
    left_out = _left_out(log, since)
    assert read.counted.left_out == dict(Counter(reason for reason in left_out.values() if reason is not None))
    for changed, users in enumerate(found):
        _same(users, _rows(log, left_out, bool(changed)))


@settings(max_examples=examples(6, 15))
@given(
    st.lists(VISITS, min_size=1, max_size=30, unique_by=lambda visit: visit.minute),
    st.sets(st.integers(1, 100), min_size=1, max_size=2),
)
def test_stored_hourly_sums_equal_sums_over_all_records(visits: list[Visit], looks: set[int]) -> None:
    late = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.model_copy(update={"outcome_hours": 5.0}))
    with tempfile.TemporaryDirectory() as folder, READ_AT_ONCE:
        log = Kept(_log(visits, 0), Path(folder))
        for hour in [*sorted(looks), 110]:
            files = log.go_on(FIRST + hour * HOUR)
            if not log.decisions:
                continue
            with experiment_users(files, late, CLICK):
                pass
            for _ in range(2):
                with experiment_users(DecisionLog.of(folder), EXPERIMENT, CLICK) as read:
                    found = [read.users(changed) for changed in (False, True)]
                left_out = _left_out(log, None)
                assert read.counted.left_out == dict(Counter(reason for reason in left_out.values() if reason))
                for changed, users in enumerate(found):
                    _same(users, _rows(log, left_out, bool(changed)))


THREE_ARMS = EXPERIMENT.from_dict(
    {
        **EXPERIMENT.model_dump(mode="json"),
        "arms": [
            {"name": "incumbent", "weight": 0.4, "policy": "baseline"},
            {"name": "challenger", "weight": 0.3, "policy": "baseline"},
            {"name": "another", "weight": 0.3, "policy": "baseline"},
        ],
        "covariates": "past",
    }
)


@settings(max_examples=examples(2, 4))
@given(
    # User 0 makes so many decisions that the verdict gives them less weight.
    st.lists(VISITS, max_size=20, unique_by=lambda visit: visit.minute),
    st.sets(st.integers(0, 70 * 60), min_size=11, max_size=15),
    st.sets(st.integers(30, 109), min_size=1, max_size=1),
    st.sampled_from([None, "u0", "u1"]),
)
def test_one_stored_row_per_user_of_the_past_gives_the_same_sums(
    visits: list[Visit], heavy: set[int], looks: set[int], forgotten: str | None
) -> None:
    visits += [Visit(minute, 0, "50%", "total", "plain", (("click", 1, 1),)) for minute in heavy]
    with tempfile.TemporaryDirectory() as folder, READ_AT_ONCE:
        log = Kept(_log(visits, 0, THREE_ARMS), Path(folder))
        for hour in [*sorted(looks), 110]:
            log.go_on(FIRST + hour * HOUR)
            if hour == 110 and forgotten is not None:
                forget_in_bucket(Lake.open(folder), [forgotten], FIRST + hour * HOUR)
            with experiment_users(DecisionLog.of(folder, Period.of("1970-01-01")), THREE_ARMS, CLICK) as read:
                expected, figures = read.counted, [_figures(read.users(changed)) for changed in (False, True)]
            for _ in range(2):
                with experiment_users(DecisionLog.of(folder), THREE_ARMS, CLICK) as read:
                    assert read.counted == expected
                    for changed, of in enumerate(figures):
                        found = _figures(read.users(bool(changed)))
                        assert found.pop("counts") == of["counts"] and found.keys() == of.keys() - {"counts"}
                        for name, value in found.items():
                            assert value == pytest.approx(of[name], rel=1e-9, abs=1e-9), name


def _figures(found: Users) -> dict[str, Any]:
    figures: dict[str, Any] = {"heavy": np.array([share for _, share in found.heavy])}
    sums = found.sums
    figures |= {"users": sums.users_C, "totals": sums.totals_CB, "arms": dict(found.of_arms)}
    figures |= {"products": sums.products_CBCB, "positive": np.stack([*sums.positive_C.values()])}
    counts = (found.capped, found.crossed, found.all_users, found.late)
    return {**figures, "counts": counts}

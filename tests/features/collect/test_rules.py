"""Tests that the decisions that a training uses give the true value of a policy."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.collect import training_log
from features.collect.training_log import add_decisions, learnable
from features.sequences.builder import build_windows
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.evaluation.value_difference import value_difference
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, write_log
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import SPEC, START, decision, named, outcome, write
from tests.lakes import id_of

CHANNELS = list(SPEC.channels)
COST = [outcome("d-cost", "d")]
NOTHING = dict(expose=False, reservation_id=None, channel="search", propensity=1.0)
BEFORE_THE_DRAW = dict(
    drawn_channel=None, channel_probs={}, exposure_probs={}, expected_rewards={}, expected_costs={}, **NOTHING
)


BASELINE: dict[str, Any] = {"drawn_channel": None, "channel_probs": {}, "exposure_probs": {}, "propensity": None}


def data_folder(folder: Path, rows: int = 0, spec: DatasetSpec = SPEC, **columns: Any) -> Path:
    """Create a log folder with `rows` touchpoints, nine days older than `START`."""
    folder.mkdir(parents=True)
    spec.save(folder / DATASET_FILE)
    old = {
        "user_id": [f"old{i}" for i in range(rows)],
        "timestamp": pd.to_datetime([START - timedelta(days=9)] * rows, utc=True).as_unit("us"),
        **{"campaign_id": "spring", "channel": "search", "cost": 0.1, "click": 0, "conversion": 0, "revenue": 0.0},
        **{"propensity": 0.25, "hour": 1.0, "device": "tv", "placement": None, "age_group": None},
    }
    write_log(pd.DataFrame({**old, **columns}), folder / LOG_FILE, spec)
    (folder / INGEST_FILE).write_text(json.dumps({"rows": rows, "fingerprint": "before"}))
    return folder


def collected(folder: Path, decisions: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> Path:
    return write(folder / "lake", decisions, outcomes)


def tables(folder: Path, store: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    add_decisions(store, data_folder(folder / "data"))
    opportunities = pd.read_parquet(folder / "data" / OPPORTUNITIES_FILE)
    opportunities["decision_id"] = named(store, opportunities["decision_id"])
    return opportunities, pd.read_parquet(folder / "data" / LOG_FILE)


RULES: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = [
    ({}, COST, "exposed"),
    ({}, [*COST, outcome("d-cancel", "d", "cancel")], "exposed"),
    ({}, [], "not exposed"),  # no outcome arrived
    ({}, [outcome("d-cancel", "d", "cancel", 0.0)], "not exposed"),
    (NOTHING, [], "not exposed"),
    ({"fallback_reason": "ledger", **NOTHING}, [], "not exposed"),
    ({"fallback_reason": "log", "withdrawn": True, **NOTHING}, [], "not exposed"),
    ({"fallback_reason": "repeated", **NOTHING}, [], "repeated"),
    ({"fallback_reason": "no_account", **NOTHING}, [], "no_account"),
    ({"fallback_reason": "features", **BEFORE_THE_DRAW}, [], "no_draw"),
    ({"exposure_probs": {}}, COST, "no_probabilities"),
    ({"channel_probs": {}}, COST, "no_probabilities"),
    ({"channel_probs": {"video": 0.4}}, COST, "no_probabilities"),  # only the drawn channel's
    ({"exposure_probs": {"video": 1.0}}, COST, "no_probabilities"),
    ({"channel_probs": {"video": 1.0}, "exposure_probs": {"video": 1.0}}, COST, "exposed"),
    ({"fallback_reason": "model_error", **BASELINE}, COST, "no_draw"),
    ({"budget_exhausted": True, **NOTHING}, [], "budget_gone"),
    ({"context": {"device": "phone"}}, [], "other_columns"),
    ({"override": True, "assignment_probability": 1.0}, COST, "override"),
    ({"override": True, "fallback_reason": "repeated", **NOTHING}, [], "override"),
    ({"stage": "off", "assignment_probability": 1.0}, COST, "exposed"),  # the policy still decided
]
"""Changes to a decision, its outcomes, and how the decision counts."""


@pytest.mark.parametrize(("changes", "outcomes", "expected"), RULES)
def test_each_kind_of_decision_follows_its_rule(
    tmp_path: Path, changes: dict[str, Any], outcomes: list[dict[str, Any]], expected: str
) -> None:
    found = learnable(collected(tmp_path, [decision("d", **changes)], outcomes), SPEC)
    if expected in ("exposed", "not exposed"):
        assert (found.opportunities, found.left_out, found.exposures) == (1, {}, int(expected == "exposed"))
    else:
        assert (found.opportunities, found.left_out) == (0, {expected: 1})


def test_written_rows_contain_the_outcomes(tmp_path: Path) -> None:
    outcomes = [
        *(outcome("c1", "d", value=0.02), outcome("c2", "d", value=0.01)),  # The costs of a decision are added.
        *(outcome("k1", "d", "click", 1.0), outcome("k2", "d", "click", 1.0)),  # Clicks on one ad count once.
        *(outcome("r1", "d", "revenue", 2.0), outcome("r2", "d", "revenue", 3.0)),
    ]
    store = collected(tmp_path, [decision("d"), decision("e", 1, user_id="u2", **NOTHING)], outcomes)
    opportunities, touchpoints = tables(tmp_path, store)
    shown, not_shown = opportunities.sort_values("decision_id").to_dict("records")
    assert (shown["exposed"], not_shown["exposed"]) == (True, False)
    assert (shown["cost"], shown["click"], shown["conversion"], shown["revenue"]) == (pytest.approx(0.03), 1, 0, 5.0)
    assert (not_shown["cost"], not_shown["click"], not_shown["channel"]) == (0.0, 0, "video")
    assert list(shown["channel_probs"]) == [0.1, 0.2, 0.3, 0.4]
    assert list(shown["exposure_probs"]) == [1.0, 0.0, 1.0, 1.0]
    (touchpoint,) = touchpoints.to_dict("records")
    assert touchpoint["timestamp"] == START and (touchpoint["channel"], touchpoint["propensity"]) == ("video", 0.4)
    assert (touchpoint["hour"], touchpoint["device"], touchpoint["placement"]) == (14.0, "phone", None)
    assert (touchpoint["click"], touchpoint["revenue"], touchpoint["age_group"]) == (1, 5.0, "30-39")


def test_an_exposure_by_override_is_a_touchpoint_but_no_opportunity(tmp_path: Path) -> None:
    store = collected(tmp_path, [decision("d", override=True), decision("e", 1, user_id="u2")], COST)
    opportunities, touchpoints = tables(tmp_path, store)
    assert opportunities["decision_id"].tolist() == ["e"]
    assert touchpoints[["user_id", "channel", "propensity"]].to_numpy().tolist() == [["u42", "video", 0.4]]
    assert learnable(store, SPEC).left_out == {"override": 1}


def test_a_default_action_is_a_touchpoint_but_no_exposure_of_the_policy(tmp_path: Path) -> None:
    """The policy did not choose the default action that the caller shows after a fault."""
    instead = decision("d", fallback_reason="model_timeout", channel="search", propensity=None)
    later = decision("e", 1, user_id="u2", fallback_reason="ledger", channel="search", propensity=None)
    outcomes = [*COST, outcome("e-cost", "e"), *(outcome(f"{of}-click", of, "click", 1.0) for of in "de")]
    store = collected(tmp_path, [{**instead, "drawn_channel": None}, later], outcomes)
    opportunities, touchpoints = tables(tmp_path, store)
    assert touchpoints["channel"].tolist() == ["search", "search"] and touchpoints["click"].tolist() == [1, 1]
    assert touchpoints["propensity"].isna().all()
    (opportunity,) = opportunities.to_dict("records")
    assert (opportunity["decision_id"], opportunity["channel"]) == ("e", "video")
    assert (opportunity["exposed"], opportunity["click"], opportunity["cost"]) == (False, 0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [{"channel": "radio", "drawn_channel": "radio", "channel_probs": {"radio": 1.0}}, {"context": {"device": "tv"}}],
)
def test_an_exposure_that_does_not_fit_the_data_set_is_no_touchpoint(tmp_path: Path, changes: dict[str, Any]) -> None:
    opportunities, touchpoints = tables(tmp_path, collected(tmp_path, [decision("d", **changes)], COST))
    assert touchpoints.empty and opportunities.empty


def test_windows_are_kept_for_the_splits_that_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [decision(f"d{i}", user_id=f"u{i // 4}", window={"number": i}) for i in range(1600)]
    store = collected(tmp_path, users, [])
    opportunities, _ = tables(tmp_path, store)
    assert set(opportunities["split"]) == {"train", "val", "test"} and len(opportunities) == 1600
    assert opportunities["features"].isna().tolist() == (opportunities["split"] == "train").tolist()

    monkeypatch.setattr(training_log, "MOST_WINDOWS", 100)
    monkeypatch.setattr(training_log, "MOST_CONTEXTS", 300)
    shutil.rmtree(tmp_path / "data")
    fewer, _ = tables(tmp_path, store)
    kept = fewer[fewer["features"].notna()]
    assert 50 < (kept["split"] == "test").sum() < 150 and 150 < (fewer["split"] == "train").sum() < 450
    assert len(kept) == (fewer["split"] != "train").sum(), "each held-out opportunity has its window"
    assert (fewer.groupby("user_id").size() == 4).all(), "users are kept or dropped with all their rows"


def test_outcomes_of_the_description_and_times_of_the_log_are_kept(tmp_path: Path) -> None:
    """An outcome may have the name of a record field, such as "reserved"."""
    further = tuple(Column(name=name, kind="numeric", missing="zero") for name in ("profit", "reserved"))
    spec = SPEC.replace(outcomes=further, reward=SPEC.reward.replace(gain={"click": 1, "profit": 2}))
    told = [("profit", -3.0), ("profit", 1.5), ("reserved", 7)]
    told = [*COST, *(outcome(f"d-{i}", "d", kind, value) for i, (kind, value) in enumerate(told))]
    store = collected(tmp_path, [decision("d", expose=True), decision("e", 1.0, **NOTHING)], told)
    bought = pd.Series([START - timedelta(days=8)], dtype="datetime64[us, UTC]")
    data = data_folder(tmp_path / "data", 1, spec, profit=4.0, reserved=0.0, click_time=bought)
    add_decisions(store, data)
    log, opportunities = pd.read_parquet(data / LOG_FILE), pd.read_parquet(data / OPPORTUNITIES_FILE)
    assert log["profit"].tolist() == [-1.5, 4.0] or log["profit"].tolist() == [4.0, -1.5]
    assert sorted(log["reserved"]) == [0.0, 7.0] and log["click_time"].notna().sum() == 1
    row = opportunities.set_index(named(store, opportunities["decision_id"])).loc["d"]
    assert (row["profit"], row["reserved"], row["cost"]) == (-1.5, 7.0, 0.03)


def test_exposures_that_lack_a_column_are_counted(tmp_path: Path) -> None:
    strict = SPEC.replace(static=(Column(name="age_group", kind="categorical"),))
    known, unknown = {"age_group": "18-24"}, {"age_group": None}
    told = [outcome("d-1", "d"), outcome("e-1", "e")]
    store = collected(tmp_path, [decision("d", static=known), decision("e", 1.0, static=unknown)], told)
    found = learnable(store, strict)
    assert (found.exposures, found.incomplete) == (1, 1) and "1 more exposures" in str(found)
    assert learnable(store, SPEC).incomplete == 0


def test_a_timed_outcome_is_known_once_the_router_has_received_it(tmp_path: Path) -> None:
    told = [
        *COST,
        {**outcome("d-1", "d", "conversion", 1.0, 50.0), "received_time": (START + timedelta(hours=2)).isoformat()},
        outcome("d-2", "d", "conversion", 1.0, 50.0),
        outcome("d-3", "d", "revenue", 2.0, 30.0),
        outcome("d-4", "d", "revenue", 3.0, 40.0),
        outcome("d-5", "d", "revenue", 0.0, 90.0),
        outcome("e-1", "e"),
        outcome("e-2", "e", "conversion", 1.0, -7.0),  # a clock was behind
    ]
    spec = SPEC.replace(timed=("conversion", "revenue"))
    store = collected(tmp_path, [decision("d"), decision("e", 1.0)], told)
    never = pd.Series([None], dtype="datetime64[us, UTC]")
    data = data_folder(tmp_path / "data", 1, spec, conversion_time=never, revenue_time=never)
    add_decisions(store, data)
    log = pd.read_parquet(data / LOG_FILE).set_index("timestamp")
    d, e = log.loc[START], log.loc[START + timedelta(minutes=1)]
    assert (d["conversion"], d["conversion_time"]) == (1, START + timedelta(minutes=50))
    assert (d["revenue"], d["revenue_time"]) == (5.0, START + timedelta(minutes=40))
    assert e["conversion_time"] == START + timedelta(minutes=1) and pd.isna(e["revenue_time"])
    build_windows(data, tmp_path / "windows")  # fails if a column is missing
    assert sorted(WindowTable.load(tmp_path / "windows").rows["collected"]) == [False, True, True]


def test_decisions_are_appended_and_the_fingerprint_changes(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", rows=3)
    found = add_decisions(collected(tmp_path, [decision("d")], COST), data)
    log, noted = pd.read_parquet(data / LOG_FILE), json.loads((data / INGEST_FILE).read_text())
    assert log["user_id"].tolist() == ["old0", "old1", "old2", "u42"]
    assert log["collected"].tolist() == [False, False, False, True]
    assert (noted["rows"], noted["users"]) == (4, 4) and noted["fingerprint"] != "before"
    assert noted["collected"]["opportunities"] == 1
    assert (found.decisions, found.opportunities, found.exposures) == (1, 1, 1)


def decisions_until_money_is_gone() -> list[dict[str, Any]]:
    until = (START + timedelta(minutes=60)).isoformat()
    gone = {"budget_exhausted": True, **NOTHING}
    return [
        decision("before", 0),
        decision("refused", 10, refused_until=until, **gone),
        # The remaining money suffices for this decision, but not for a more expensive channel.
        decision("cheap", 20),
        decision("other-campaign", 20, campaign_id="summer"),
        decision("other-arm", 20, arm="incumbent"),
        decision("tried-out", 1, campaign_id="summer", override=True, refused_until=until, **gone),
        decision("edited", 30, experiment_version="ffffffffffffffff"),
        decision("next-hour", 61),
        decision("refused-for-good", 70, **gone),
        decision("much-later", 5000),
    ]


def test_decisions_after_a_refusal_are_left_out_until_the_period_ends(tmp_path: Path) -> None:
    opportunities, _ = tables(tmp_path, collected(tmp_path, decisions_until_money_is_gone(), []))
    assert set(opportunities["decision_id"]) == {"before", "other-campaign", "other-arm", "edited", "next-hour"}


def test_left_out_decisions_are_those_during_an_earlier_refusal(tmp_path: Path) -> None:
    """The expected decisions come from a loop over random, possibly overlapping refusals."""
    random = np.random.default_rng(3)
    decisions, refusals = [], []
    for i in random.permutation(600):
        account = {"arm": str(random.choice(["a", "b"])), "experiment_version": random.choice(["e" * 16, None])}
        minutes, refused = int(random.integers(3000)), random.random() < 0.1
        lasts = float(random.choice([-20, 0, 15, 60, 400])) if random.random() < 0.98 else None
        until = (START + timedelta(minutes=minutes + lasts)).isoformat() if refused and lasts is not None else None
        changes = {"budget_exhausted": True, "refused_until": until, **NOTHING} if refused else {}
        made = id_of(f"d{i:03d}", START + timedelta(minutes=minutes))
        decisions.append(decision(made, minutes, **account, **changes))
        if refused:
            to = float("inf") if lasts is None else minutes + lasts
            refusals.append((tuple(account.values()), (minutes, made), to))
    opportunities, _ = tables(tmp_path, collected(tmp_path, decisions, []))
    expected = set()
    for record in decisions:
        minutes = (datetime.fromisoformat(record["event_time"]) - START).total_seconds() / 60
        account, at = (record["arm"], record["experiment_version"]), (minutes, record["decision_id"])
        if not any(of == account and first <= at and minutes < to for of, first, to in refusals):
            expected.add(record["decision_id"])
    assert sorted(opportunities["decision_id"]) == sorted(expected) and 100 < len(expected) < 500


def test_decisions_become_opportunities_once_mature(tmp_path: Path) -> None:
    store = collected(tmp_path / "1", [decision("old", 0), decision("young", 90), decision("newest", 120)], COST)
    assert learnable(store, SPEC.replace(outcome_hours=1.0)).left_out == {"not_mature": 2}
    assert learnable(store, SPEC, START + timedelta(minutes=100)).decisions == 2
    # A router's fast clock must not make other decisions count as old enough.
    now = (datetime.now(UTC) - START).total_seconds() / 60
    store = collected(tmp_path / "2", [decision("young", now - 5), decision("ahead", now + 10_000)], [])
    assert learnable(store, SPEC.replace(outcome_hours=24.0)).left_out == {"not_mature": 2}


def test_a_withdrawal_in_another_hour_counts(tmp_path: Path) -> None:
    both = [decision("d", 59.99), decision("d", 60.01, withdrawn=True, fallback_reason="log", **NOTHING)]
    found = learnable(collected(tmp_path, both, [outcome("c", "d", minutes=59.995)]), SPEC)
    assert (found.decisions, found.exposures) == (1, 0)


# ---- a market whose truth is known

ROWS = 12_000
KINDS = 2  # kinds of users
GAIN = np.array([[0.30, 0.10, 0.35, 0.05], [0.05, 0.25, 0.10, 0.30]])
PRICES = np.array([0.10, 0.20, 0.15, 0.10])
DRAW = np.array([[0.4, 0.2, 0.3, 0.1], [0.1, 0.3, 0.2, 0.4]])
EXPLORED = 0.1  # probability of showing an ad that the policy itself would not show
SHOW = np.where([[True, True, False, False], [False, True, True, True]], 1.0, EXPLORED)
TARGET = np.array([[0.1, 0.2, 0.6, 0.1], [0.2, 0.4, 0.2, 0.2]])
TARGET_SHOW = np.array([[True, False, True, True], [True, True, False, True]])
TRUTH = float((TARGET * TARGET_SHOW * GAIN).sum(axis=1).mean())


def market(seed: int, faults: float = 0.0, lost: float = 0.0, budget: bool = False) -> tuple[list[Any], list[Any]]:
    """Return decisions drawn with the probabilities DRAW and SHOW, and the outcomes of these decisions.

    `faults` is the share of exposures that fail in the ledger, and `lost` is the share that is cancelled. With
    `budget`, each hour's budget is spent after 30 to 45 minutes.
    """
    random = np.random.default_rng(seed)
    decisions, outcomes = [], []
    for i in range(ROWS):
        kind, minutes = int(random.integers(KINDS)), i / ROWS * 600
        c = int(random.choice(len(CHANNELS), p=DRAW[kind]))
        wants = bool(random.random() < SHOW[kind, c])
        refused = budget and wants and minutes % 60 > (35, 30, 40, 45)[c]
        failed = wants and not refused and random.random() < faults
        shown = wants and not refused and not failed
        changes: dict[str, Any] = {
            "user_id": f"u{i % 3000}-{kind}",
            "drawn_channel": CHANNELS[c],
            "channel_probs": dict(zip(CHANNELS, DRAW[kind].tolist(), strict=True)),
            "exposure_probs": dict(zip(CHANNELS, SHOW[kind].tolist(), strict=True)),
            "context": {"hour": float(kind), "device": "phone", "placement": None},
            "budget_exhausted": bool(refused),
            "refused_until": (START + timedelta(minutes=60 * (minutes // 60 + 1))).isoformat() if refused else None,
            "fallback_reason": "ledger" if failed else None,
        }
        here = {"channel": CHANNELS[c], "propensity": float(DRAW[kind, c])} if shown else NOTHING
        decisions.append(decision(f"d{i}", minutes, **changes, **here))
        if shown and random.random() < lost:
            outcomes.append(outcome(f"x{i}", f"d{i}", "cancel", 0.0, minutes))
        elif shown:
            outcomes.append(outcome(f"c{i}", f"d{i}", "cost", float(PRICES[c]), minutes))
            if random.random() < GAIN[kind, c]:
                outcomes.append(outcome(f"k{i}", f"d{i}", "click", 1.0, minutes))
    return decisions, outcomes


def value_of_target(opportunities: pd.DataFrame) -> tuple[float, list[float], float]:
    """Return the estimated value of TARGET, its confidence interval and the mean importance weight."""
    kind_B = opportunities["hour"].to_numpy(int)
    channel_B = opportunities["channel"].map(CHANNELS.index).to_numpy()
    probs_BC, show_BC = (np.stack(opportunities[name].to_numpy()) for name in ("channel_probs", "exposure_probs"))
    at = np.arange(len(opportunities)), channel_B
    exposure = Exposure(opportunities["exposed"].to_numpy(bool), show_BC[at], probs_BC * show_BC)
    gain_B, cost_B = opportunities["click"].to_numpy(float), opportunities["cost"].to_numpy(float)
    log = LoggedRows(channel_B, probs_BC[at], gain_B, cost_B, opportunities["user_id"].to_numpy(), exposure)
    target = PolicyOnLog(TARGET[kind_B], TARGET_SHOW[kind_B])
    value = value_difference(target, target, log, budget_share=100.0, seed=0, resamples=200)
    return value["challenger"], value["challenger_ci"], value["mean_weight"]["challenger"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "trouble",
    [{}, {"faults": 0.15}, {"lost": 0.15}, {"budget": True}, {"budget": True, "faults": 0.1, "lost": 0.1}],
    ids=str,
)
def test_the_value_of_a_policy_comes_out_right(tmp_path: Path, trouble: dict[str, Any]) -> None:
    store = collected(tmp_path, *market(1, **trouble))
    opportunities, _ = tables(tmp_path, store)
    value, (low, high), mean_weight = value_of_target(opportunities)
    assert low < TRUTH < high and value == pytest.approx(TRUTH, rel=0.1)
    assert mean_weight == pytest.approx(1.0, abs=0.08)


def test_a_policy_without_a_digest_has_its_name(tmp_path: Path) -> None:
    policies = [("f00", "x", "1"), (None, "our-rules", "3"), (None, "baseline", None), (None, None, None)]
    fields = ("model_digest", "model_name", "model_version")
    decisions = [decision(f"d{i}", i, **dict(zip(fields, policy, strict=True))) for i, policy in enumerate(policies)]
    opportunities, _ = tables(tmp_path, collected(tmp_path, decisions, []))
    found = opportunities.sort_values("decision_id")["generation"].tolist()
    assert found == ["f00", "our-rules 3", "baseline", "unnamed"]

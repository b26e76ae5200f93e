"""Tests that the monitor's measures equal independent calculations."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog, Period
from monitoring.watch import measures
from monitoring.watch.measures import Counted, Measured, measure
from mtorl.evaluation.head_metrics import expected_auc, realised_auc
from mtorl.log.gain import Gain
from mtorl.log.times import iso
from tests.features.collect.decision_logs import SPEC, decision, outcome, write

DAY = Period.of("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
CLICK = Gain.of_spec("click")
_RIGHT_AFTER_NOON = 12 * 60.0  # minutes from START (noon) to midnight


def count(folder: Path, gain: Gain = CLICK, period: Period = DAY) -> Counted:
    return measure(DecisionLog.of(folder, period), gain, SPEC.outcome_kinds, SPEC.channels)


def by_name(counted: Counted) -> dict[str, Measured]:
    return {each.stream: each for each in counted.measured}


@pytest.fixture(autouse=True)
def few_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MIN_USERS", 2)


class Written(list[dict[str, Any]]):
    """A log whose files contain many records that must not count; `decisions` and `outcomes` have the others."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        decisions, outcomes = [], []
        for i in range(400):
            row = self._decision(i, rng)
            came = {kind: 0.0 for kind in (*SPEC.outcome_kinds, "cost")}
            counts = True
            what = rng.choice(["cancelled", "withdrawn", "overridden", "yesterday", "tomorrow", *["usual"] * 12])
            # The second record may be written before or after the first.
            if what == "withdrawn":
                taken_back = {**row, "withdrawn": True, "expose": False, "fallback_reason": "log"}
                decisions += [row, taken_back][:: rng.choice([1, -1])]
                row = taken_back
            elif what == "overridden":
                decisions.append(row | {"override": True})
                counts = False
            elif what in ("yesterday", "tomorrow"):
                decisions.append(row | {"event_time": f"2026-01-0{2 if what == 'tomorrow' else 1}T00:00:00+00:00"})
                decisions[-1]["event_time"] = "2025-12-31T23:59:59.999Z" if what == "yesterday" else "2026-01-02T00:00Z"
                counts = False
            else:
                decisions += [row] * rng.integers(1, 3)
            name = row["decision_id"]
            if row["expose"]:
                for kind in came:
                    for k in range(rng.integers(0, 3)):
                        came[kind] += (value := 1.0 if kind == "click" else float(rng.gamma(2.0)))
                        outcomes += [outcome(f"{kind}-{k}-{name}", name, kind, value)] * rng.integers(1, 3)
                outcomes.append(outcome(f"late-{name}", name, "click", 1.0, minutes=_RIGHT_AFTER_NOON))
                if what == "cancelled":
                    outcomes.append(outcome(f"cancel-{name}", name, "cancel", 0.0))
            if counts:
                self.append(row | came | {"shown": row["expose"] and what != "cancelled"})
        outcomes.append(outcome("dangling", "nobody", "click", 1.0))
        order = rng.permutation(len(decisions))
        write(folder, [decisions[i] for i in order], outcomes)

    @staticmethod
    def _decision(i: int, rng: np.random.Generator) -> dict[str, Any]:
        length = int(rng.integers(0, 5))
        at = 1_767_268_800_000_000
        hours = np.cumsum(rng.integers(1, 40, length))[::-1]
        history: dict[str, Any] = {
            "feature_hash": "0" * 16,
            "history_length": length,
            "last_channel": str(rng.choice(SPEC.channels)) if length else None,
            "last_time": iso(at - int(hours[-1]) * 3_600_000_000) if length else None,
        }
        expose, arm = bool(rng.random() < 0.7), str(rng.choice(["incumbent", "challenger", "outside"]))
        return decision(
            f"d{i}",
            minutes=float(rng.random() * 60),
            user_id=f"u{rng.integers(0, 90)}",
            experiment=str(rng.choice(["spring", "autumn"])),
            arm=arm,
            expose=expose,
            drawn_channel=None if rng.random() < 0.1 else str(rng.choice(SPEC.channels)),
            propensity=None if rng.random() < 0.1 else float(rng.random() * 0.8 + 0.1),
            expected_reward=None if rng.random() < 0.1 else float(rng.random()),
            state_distance=None if rng.random() < 0.1 else float(rng.random() + 0.5),
            budget_exhausted=bool(rng.random() < 0.1),
            fallback_reason="features" if rng.random() < 0.1 else None,
            request_time=iso(at),
            **(dict.fromkeys(history) if rng.random() < 0.1 else history),
        )


ARMS = ("incumbent", "spring/challenger", "autumn/challenger")  # both experiments share the incumbent


@pytest.mark.parametrize(
    ("terms", "most"),
    [("click", measures.MOST_VALUES), ({"click": 0.5, "revenue": 2.0}, 10_000)],
    ids=["click", "in-parts"],
)
def test_every_measure_equals_an_independent_calculation(
    terms: object, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "MOST_VALUES", most)
    gain = Gain.of_spec(terms)
    decided = Written(tmp_path / "log")
    counted = count(tmp_path / "log", gain)
    frame = pd.DataFrame(list(decided)).astype(
        {name: float for name in ("expected_reward", "propensity", "state_distance")}
    )
    frame["gain"] = sum(weight * frame[name] for name, weight in gain.terms)
    assert (counted.decisions, counted.users) == (len(frame), frame["user_id"].nunique())
    assert counted.exposures == frame["expose"].sum()
    by_hand = dict(_by_hand(frame))
    found = by_name(counted)
    ranks = {f"performance/{arm}/{name}" for arm in ARMS for name in ("auc", "expected_auc")}
    assert found.keys() - ranks == by_hand.keys()
    for name, (value, se, size) in by_hand.items():
        assert found[name].value == pytest.approx(value), name
        assert found[name].se == pytest.approx(se), name
        assert found[name].size == pytest.approx(size), name


def _by_hand(frame: pd.DataFrame) -> Any:
    built = frame[frame["feature_hash"].notna()]
    lengths = built["history_length"].astype(int)
    seen = built[lengths > 0]
    ago = pd.to_datetime(seen["request_time"]) - pd.to_datetime(seen["last_time"])
    yield "journeys/history_length", _ratio(built, lengths)
    yield "journeys/no_history_ratio", _ratio(built, lengths == 0)
    yield "journeys/recency_hours", _ratio(seen, ago.dt.total_seconds() / 3600)
    its = frame[frame["arm"] == "incumbent"]
    drawn = its[its["drawn_channel"].notna()]
    for channel in SPEC.channels:
        yield (f"journeys/last_channel_{channel}_ratio", _ratio(seen, seen["last_channel"] == channel))
        yield f"decisions/incumbent/channel_{channel}_ratio", _ratio(drawn, drawn["drawn_channel"] == channel)
    yield "decisions/incumbent/exposure_ratio", _ratio(its, its["expose"])
    yield "decisions/incumbent/budget_exhausted_ratio", _ratio(its, its["budget_exhausted"])
    yield "decisions/incumbent/fallback_ratio", _ratio(its, its["fallback_reason"].notna())
    known = drawn[drawn["propensity"].notna()]
    yield "decisions/incumbent/propensity", _ratio(known, known["propensity"])
    expecting = its[its["expected_reward"].notna()]
    yield "decisions/incumbent/expected_gain", _ratio(expecting, expecting["expected_reward"])
    shown = frame[frame["shown"]]
    each, refused = shown["gain"].mean(), frame["budget_exhausted"]
    paid = frame["gain"] + refused * each
    residual = refused.sum() / len(shown) * (frame["gain"] - each) * frame["shown"]  # sums to 0
    yield "outcomes/gain_per_decision", _ratio(frame, paid + residual)
    yield "outcomes/gain_per_cost", _ratio(frame, frame["gain"], frame["cost"])
    yield "outcomes/cost_per_exposure", _ratio(shown, shown["cost"])
    for kind in (*SPEC.outcome_kinds, "cost"):
        yield f"outcomes/{kind}_per_decision", _ratio(frame, frame[kind])
    arms = (frame["experiment"] + "/" + frame["arm"]).where(frame["arm"] != "incumbent", "incumbent")
    for arm in ARMS:
        expected = shown[(arms[shown.index] == arm) & shown["expected_reward"].notna()]
        yield f"performance/{arm}/calibration", _ratio(expected, expected["gain"], expected["expected_reward"])
        said = frame[(arms == arm) & frame["state_distance"].notna()]
        yield f"performance/{arm}/state_distance", _ratio(said, said["state_distance"])


def _ratio(frame: pd.DataFrame, over: pd.Series, under: pd.Series | None = None) -> tuple[float, float, float]:
    under = pd.Series(1.0, frame.index) if under is None else under
    of_user = pd.DataFrame({"n": over.astype(float), "d": under}).groupby(frame["user_id"]).sum()
    value, users = of_user["n"].sum() / of_user["d"].sum(), len(of_user)
    residual = of_user["n"] - value * of_user["d"]
    se = float(np.sqrt((residual**2).sum() * users / (users - 1)) / of_user["d"].sum())
    return float(value), se, float(of_user["d"].sum())


def test_ranking_of_exposures(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    p, clicked = rng.random(300), rng.random(300) < 0.4
    decisions = [decision(f"d{i}", i / 10, user_id=f"u{i}", expected_reward=float(p[i])) for i in range(300)]
    clicks = [outcome(f"e{i}", f"d{i}", "click", 1.0) for i in np.flatnonzero(clicked)]
    write(tmp_path, decisions, clicks)
    found = by_name(count(tmp_path))
    assert found["performance/mtorl-vs-frequency/challenger/auc"].value == pytest.approx(realised_auc(p, clicked))
    assert found["performance/mtorl-vs-frequency/challenger/expected_auc"].value == pytest.approx(expected_auc(p))
    # A second click of a decision doesn't change the AUC. With revenue, the gain isn't binary, so there is no AUC.
    one = int(np.flatnonzero(clicked)[0])
    write(tmp_path, decisions, [*clicks, outcome("again", f"d{one}", "click", 1.0)])
    assert by_name(count(tmp_path))["performance/mtorl-vs-frequency/challenger/auc"].value == pytest.approx(
        realised_auc(p, clicked)
    )
    assert "performance/mtorl-vs-frequency/challenger/auc" not in by_name(
        count(tmp_path, Gain.of_spec({"click": 1.0, "revenue": 1.0}))
    )


def test_decisions_without_an_exposure_have_no_gain(tmp_path: Path) -> None:
    written = [
        decision(f"d{i}", i / 10, user_id=f"u{i}", expose=False, budget_exhausted=True, drawn_channel="search")
        for i in range(20)
    ]
    write(tmp_path, written, [])
    found = by_name(count(tmp_path))
    assert "outcomes/gain_per_decision" not in found and found["outcomes/click_per_decision"].value == 0.0


def test_the_arms_with_most_decisions_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_ARMS", 2)
    written = [
        decision(f"d{e}-{i}", i / 10, user_id=f"u{i}", experiment=f"e{e}", expected_reward=0.5)
        for e, decisions in enumerate((120, 130, 140))
        for i in range(decisions)
    ]
    write(tmp_path, written, [outcome("e0", "d0-0", "click", 1.0)])
    arms = {name.rpartition("/")[0] for name in by_name(count(tmp_path)) if name.startswith("performance/")}
    assert arms == {"performance/e1/challenger", "performance/e2/challenger"}


def test_a_policy_without_expectations_or_features(tmp_path: Path) -> None:
    """The incumbent is a rule that logs neither expected rewards nor features."""
    nothing = {"expected_reward": None, "feature_hash": None, "model_digest": None, "propensity": None}
    nothing["state_distance"] = None
    write(tmp_path, [decision(f"d{i}", i / 10, user_id=f"u{i}", arm="incumbent", **nothing) for i in range(9)])
    streams = by_name(count(tmp_path))
    assert not [name for name in streams if name.startswith(("journeys", "performance"))]
    assert "decisions/incumbent/expected_gain" not in streams
    assert streams["decisions/incumbent/exposure_ratio"].value == 1.0


def test_exposures_without_outcomes_are_missing_not_zero(tmp_path: Path) -> None:
    decisions = [decision(f"d{i}", i / 10, user_id=f"u{i}", arm="incumbent") for i in range(9)]
    write(tmp_path, decisions)
    counted = count(tmp_path)
    assert counted.outcomes_missing and counted.exposures == 9
    assert not [name for name in by_name(counted) if name.startswith("outcomes/") or "calibration" in name]
    write(tmp_path, decisions, [outcome("e", "d1", "cost", 0.1)])
    assert not count(tmp_path).outcomes_missing
    assert by_name(count(tmp_path))["outcomes/gain_per_decision"].value == 0.0
    write(tmp_path, [each | {"expose": False} for each in decisions])
    assert not count(tmp_path).outcomes_missing, "without exposures, no outcomes are missing"


def test_outcomes_of_each_arm(tmp_path: Path) -> None:
    arms = ["incumbent", "outside", "challenger", "rule"] * 5
    decisions = [decision(f"d{i}", i / 10, user_id=f"u{i}", arm=arm, expose=True) for i, arm in enumerate(arms)]
    clicks = [outcome(f"e{i}", f"d{i}", "click", 1.0) for i, arm in enumerate(arms) if arm != "rule"]
    write(tmp_path, decisions, [*clicks, *(outcome(f"c{i}", f"d{i}", "cost", 0.5) for i in range(20))])
    found = {(each.arm, each.measure): (each.value, each.size) for each in count(tmp_path).by_arm}
    experiment = decisions[0]["experiment"]
    assert {arm for arm, _ in found} == {"incumbent", f"{experiment}/challenger", f"{experiment}/rule"}
    assert found["incumbent", "gain_per_decision"] == (1.0, 10)
    assert found[f"{experiment}/rule", "gain_per_decision"] == (0.0, 5)
    assert found[f"{experiment}/challenger", "gain_per_cost"] == (2.0, 2.5)
    assert found[f"{experiment}/rule", "cost_per_exposure"] == (0.5, 5)
    write(tmp_path / "one", [each for each in decisions if each["arm"] == "incumbent"], clicks)
    assert not count(tmp_path / "one").by_arm, "there is no challenger to compare"


def test_the_period_bounds_both_sides(tmp_path: Path) -> None:
    write(tmp_path, [decision(f"d{i}", i * 60.0, user_id=f"u{i}") for i in range(-13, 13)])
    assert count(tmp_path).decisions == 24
    assert count(tmp_path, period=Period.of("2026-01-01T12:00:00Z", "2026-01-01T14:00:00Z")).decisions == 2
    assert count(tmp_path, period=Period.of("2026-02-01", "2026-02-02"))[:5] == (0, 0, 0, 0, ())

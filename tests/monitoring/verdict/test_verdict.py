"""Tests of the users, arms and weights in a verdict from a decision log."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from features.collect.compact import compact
from monitoring.decision_log import DecisionLog, Period, PeriodError
from monitoring.verdict.period import verdict_of_period
from monitoring.verdict.verdict import verdict_from_log
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import CHANGED_DAYS, LATE_GAP, LATE_OUTCOMES, NOT_STICKY, TOO_EARLY
from mtorl.log.dataset import DatasetSpec, counted_gain
from mtorl.log.decision_ids import BUCKET, HOUR
from mtorl.log.gain import Gain
from mtorl.log.lake import Lake, name_of
from mtorl.log.records import Kind, sql_columns
from tests.lakes import ids_in
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import BEGIN, Log

EXPERIMENT = Experiment.from_dict(CONTENT)
DAILY = Experiment.from_dict({**CONTENT, "budgets": [{**CONTENT["budgets"][0], "period": "day"}]})


def traffic(users: int, challenger_rate: float, rounds: int = 3, seed: int = 0) -> Log:
    rng = np.random.default_rng(seed)
    log = Log()
    for user in range(users):
        arm = "challenger" if user % 2 else "incumbent"
        for _ in range(rounds):
            decision = log.decide(f"u{user}", arm)
            log.learn(decision, "cost", 0.2)
            if rng.random() < (challenger_rate if arm == "challenger" else 0.2):
                log.learn(decision, "click", 1.0)
    return log


def test_a_clear_win_ships_and_the_dict_is_json(tmp_path: Path) -> None:
    log = traffic(600, 0.5)
    log.decide("u1", "challenger", expose=False, fallback_reason="model_timeout")  # counts for the assigned arm
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["verdict"] == "ship" and found["srm_p"] == 1.0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    clicks = sum(row["kind"] == "click" for row in log.outcomes)
    assert sum(arm["totals"]["click"] for arm in found["arms"].values()) == clicks
    challenger = found["arms"]["challenger"]
    assert (challenger["users"], challenger["decisions"], challenger["exposures"]) == (300, 901, 900)
    assert challenger["fallbacks"] == 1 and challenger["totals"]["cost"] == pytest.approx(180.0)
    assert challenger["metrics"]["cost_per_decision"] == pytest.approx(180.0 / 901)
    assert challenger["metrics"]["click_per_decision"] == pytest.approx(challenger["totals"]["click"] / 901)
    assert found["lift"] == pytest.approx(
        challenger["metrics"]["click_per_decision"] - found["arms"]["incumbent"]["metrics"]["click_per_decision"]
    )
    (low, high), (fixed_low, fixed_high) = found["lift_ci"], found["lift_ci_fixed"]
    assert low < fixed_low < found["lift"] < fixed_high < high
    assert found["guardrails"][0]["state"] == "held"
    assert found["secondary"]["exposure_ratio"]["lift"] == pytest.approx(-1 / 901)


def test_a_changed_share_of_exploration_is_another_policy(tmp_path: Path) -> None:
    """An arm that logs no model counts as another policy after its share of random decisions changes."""
    log = traffic(400, 0.3)
    for place, row in enumerate(log.decisions):
        share = 0.5 if place < 300 else 0.1 if place < 600 else None
        explores = row["arm"] == "challenger" and share is not None
        row["exploration"] = json.dumps({"share": share, "scope": "both", "explored": True}) if explores else None
    log.decide("u1", "challenger", fallback_reason="model_error", exploration=None)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["left_out"] == {"other_model": 600} and "or its exploration" in found["reason"]
    log.decisions = log.decisions[300:600] + log.decisions[-1:]
    assert verdict_from_log(log.write(tmp_path), EXPERIMENT)["left_out"] == {}


@pytest.mark.parametrize(
    ("challenger", "newest"),
    [
        (lambda place: {"model_digest": "new" if 300 <= place < 600 else "old"}, "old"),  # a rollback
        (lambda place: {"model_name": "ranker", "model_version": "1" if place < 600 else "2"}, "ranker 2"),
    ],
    ids=["digest", "name-and-version"],
)
def test_only_decisions_after_the_last_model_change_count(tmp_path: Path, challenger: Any, newest: str) -> None:
    """The incumbent logs no model, so only the challenger's models can be told apart."""
    log = traffic(400, 0.3)
    for place, row in enumerate(log.decisions):
        row |= {"model_digest": None, "model_name": None, "model_version": None}
        row |= challenger(place) if row["arm"] == "challenger" else {}
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["left_out"] == {"other_model": 600} and found["models"] == {"challenger": newest}
    log.decisions = log.decisions[600:]
    clean = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert clean["left_out"] == {}
    for key in ("arms", "lift", "lift_ci", "verdict"):
        assert found[key] == clean[key]


@pytest.mark.parametrize("seed", range(5))
def test_overriding_the_incumbents_best_users_does_not_ship_a_copy_of_it(tmp_path: Path, seed: int) -> None:
    """An override moves the incumbent's users with the most clicks to an equal challenger.

    If their earlier decisions were left out, the incumbent would lose its best users and the challenger would seem
    better.
    """
    rng, log, clicks = np.random.default_rng(seed), Log(), Counter[str]()
    rates = rng.beta(0.3, 1.2, 2_000)
    for _ in range(4):
        for user, clicked in enumerate(rng.random(2_000) < rates):
            decision = log.decide(f"u{user}", "challenger" if user % 2 else "incumbent")
            if clicked:
                log.learn(decision, "click", 1.0)
                clicks[f"u{user}"] += 1
    for user in sorted((f"u{user}" for user in range(0, 2_000, 2)), key=lambda user: -clicks[user])[:60]:
        log.decide(user, "challenger", override=True, assignment_probability=1.0)
    # Without guardrails, the lift alone would suffice for "ship".
    metrics = EXPERIMENT.metrics.replace(guardrails=())
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))
    assert (found["verdict"], found["srm_p"]) == ("inconclusive", 1.0)
    assert (found["left_out"], found["overridden_users"]) == ({"override": 60}, 60)
    assert found["arms"]["incumbent"]["users"] == 1_000


def test_a_decision_before_an_override_still_counts_if_requested_again(tmp_path: Path) -> None:
    """The first decision was random, so it counts even if an override repeats its request."""
    log = traffic(200, 0.3)
    for place, row in enumerate(log.decisions):
        row |= {"request_id": f"r{place}", "campaign_id": "c"}
    withdrawn = {"withdrawn": True, "expose": False, "fallback_reason": "log"}
    log.decisions += [{**log.decisions[9], **withdrawn, "event_time": "2025-03-01T12:00:01+00:00"}]
    clean = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    named = {"override": True, "assignment_probability": 1.0, "event_time": "2025-03-01T12:00:00+00:00"}
    for row in log.decisions[3:12:3]:
        log.decisions.append({**row, "decision_id": f"again-{row['decision_id']}", **named})
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert (found["left_out"], found["overridden_users"]) == ({"override": 3}, 3)
    for key in ("arms", "lift", "lift_ci"):
        assert found[key] == clean[key]


def test_users_overridden_before_the_period_do_not_count_but_overrides_elsewhere_do(tmp_path: Path) -> None:
    log = traffic(200, 0.3)
    begin = log.decisions[0]["event_time"]
    early = (pd.Timestamp(begin) - pd.Timedelta(days=1)).isoformat()
    log.decide("u1", "challenger", override=True, assignment_probability=1.0, event_time=early)
    log.decide("u2", "challenger", override=True, assignment_probability=1.0, event_time=early, experiment="another")
    found = verdict_from_log(replace(log.write(tmp_path), period=Period.of(since=begin)), EXPERIMENT)
    assert (found["left_out"], found["overridden_users"]) == ({"override": 3}, 1)


def test_all_arms_are_compared_over_the_time_of_the_present_weights(tmp_path: Path) -> None:
    """All arms have the same policy, but clicks increase when the challengers' weights change."""
    before, after = ({"incumbent": 0.5, "a": a, "b": 0.5 - a} for a in (0.25, 0.125))
    arms = [{"name": name, "weight": weight, "endpoint": "http://x"} for name, weight in after.items()]
    experiment = Experiment.from_dict({**CONTENT, "arms": arms})
    rng, log = np.random.default_rng(0), Log()
    for shares, rate in ((before, 0.1), (after, 0.5)):
        for user, point in enumerate(np.linspace(0.0, 1.0, 2_400, endpoint=False)):
            arm = "incumbent" if point < 0.5 else "a" if point < 0.5 + shares["a"] else "b"
            share = {"assignment_probability": shares[arm], "shares": json.dumps(shares), "salt": experiment.salt}
            if rng.random() < rate:
                log.learn(log.decide(f"u{user}", arm, **share), "click", 1.0)
            else:
                log.decide(f"u{user}", arm, **share)
    found = verdict_from_log(log.write(tmp_path), experiment)
    assert found["left_out"] == {"other_weights": 2_400} and found["verdict"] == "inconclusive"
    daily = experiment.replace(budgets=(experiment.budgets[0].replace(period="day", pacing=None),))
    # The experiment was edited on the second of four days.
    left_out = verdict_from_log(log.write(tmp_path), daily)["left_out"]
    assert left_out == {"changed_period": 480, "other_weights": 2_400, "unfinished_period": 480}


def ramp(users: int, rate: dict[str, float], market: dict[str, float], seed: int = 0) -> Log:
    """Return a log of the stages 5 % and 25 %. The click rate is the arm's `rate` plus the stage's `market`."""
    rng = np.random.default_rng(seed)
    log = Log()
    for stage, share in (("5%", 0.05), ("25%", 0.25)):
        for user, point in enumerate(np.linspace(0.0, 1.0, users, endpoint=False)):
            arm = "challenger" if point < share else "incumbent"
            other = {"stage": stage, "assignment_probability": share if arm == "challenger" else 1 - share}
            decision = log.decide(f"u{user}", arm, **other)
            if rng.random() < rate[arm] + market[stage]:
                log.learn(decision, "click", 1.0)
    return log


def test_a_ramp_is_judged_within_its_stages_as_one_experiment(tmp_path: Path) -> None:
    """Both arms have the same policy, and clicks increase between the stages.

    If the stages were pooled, the challenger would seem better, because most of its users come in the second stage.
    """
    rate = {"incumbent": 0.1, "challenger": 0.1}
    log = ramp(4_000, rate, {"5%": 0.0, "25%": 0.5})
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(stage="25%"))
    assert found["verdict"] == "inconclusive" and found["stages"] == ["5%", "25%"]
    assert found["multiple_exposure_users"] == 0 and found["srm_p"] == 1.0 and found["left_out"] == {}
    arms = found["arms"]
    rates = {name: arm["metrics"]["click_per_decision"] for name, arm in arms.items()}
    assert rates["challenger"] > rates["incumbent"] + 0.1
    assert found["lift_ci"][0] < 0.0 < found["lift_ci"][1] and abs(found["lift"]) < 0.05
    assert (arms["challenger"]["users"], arms["incumbent"]["users"]) == (1_000, 3_800)
    assert (found["users"], found["moved_users"]) == (4_000, 800)
    assert found["effective_users"] == pytest.approx(4 * 200 * 3_800 / 4_000 + 4 * 1_000 * 3_000 / 4_000)


def test_three_arms_are_judged_and_share_the_error(tmp_path: Path) -> None:
    names, weights = ("incumbent", "second", "third"), (0.5, 0.25, 0.25)
    arms = [{"name": n, "weight": w, "endpoint": "http://x"} for n, w in zip(names, weights, strict=True)]
    experiment = Experiment.from_dict({**CONTENT, "arms": arms})
    rng, log = np.random.default_rng(3), Log()
    for user in range(2_400):
        arm = names[max(0, user % 4 - 1)]
        decision = log.decide(f"u{user}", arm, assignment_probability=weights[names.index(arm)])
        if rng.random() < {"incumbent": 0.4, "second": 0.4, "third": 0.6}[arm]:
            log.learn(decision, "click", 1.0)
        log.learn(decision, "cost", 0.2)
    found = verdict_from_log(log.write(tmp_path), experiment)
    verdicts = {name: one["verdict"] for name, one in found["challengers"].items()}
    assert verdicts == {"second": "inconclusive", "third": "ship"}
    assert (found["challenger"], found["verdict"]) == ("third", "ship")
    assert found["lift_ci"] == found["challengers"]["third"]["lift_ci"]
    assert found["confidence"] == pytest.approx(1 - 0.05 / 2 * 0.9)  # two challengers; guardrails get a tenth


def test_an_arm_with_weight_zero_has_no_verdict(tmp_path: Path) -> None:
    third = {"name": "third", "weight": 0.0, "endpoint": "http://x"}
    experiment = Experiment.from_dict({**CONTENT, "arms": [*CONTENT["arms"], third]})
    found = verdict_from_log(traffic(600, 0.0).write(tmp_path), experiment)
    assert (found["challenger"], found["verdict"]) == ("challenger", "stop")
    assert found["challengers"]["third"]["verdict"] == "inconclusive"
    assert found["confidence"] == pytest.approx(1 - 0.05 / 2 * 0.9)  # its earlier looks have used their share


def paced_against_unpaced(hours: int) -> Log:
    """Return a log of two equally good policies with equal daily budgets.

    The challenger spends its budget evenly over the day, and the incumbent only in the morning.
    """
    log = Log()
    for hour in range(hours):
        for user in range(20):
            arm = "challenger" if user % 2 else "incumbent"
            spends = user // 2 % 2 == hour % 2 if arm == "challenger" else hour % 24 < 12
            at = (BEGIN + pd.Timedelta(hours=hour, minutes=user)).isoformat()
            decision = log.decide(f"u{hour}-{user}", arm, event_time=at)
            if spends:
                log.learn(decision, "click", 1.0)
    return log


def test_an_unfinished_day_does_not_count_with_a_daily_budget(tmp_path: Path) -> None:
    metrics = EXPERIMENT.metrics.replace(guardrails=())
    total = EXPERIMENT.replace(metrics=metrics)
    daily = DAILY.replace(metrics=metrics)
    log = paced_against_unpaced(60)
    noon = verdict_from_log(log.write(tmp_path), daily)
    assert noon["verdict"] == "inconclusive" and noon["lift"] == pytest.approx(0.0)
    assert noon["left_out"] == {"unfinished_period": 12 * 20} and noon["hours"] < 48
    assert verdict_from_log(log.write(tmp_path), total)["lift"] < -0.05
    # A day counts as complete if the log has a decision of the next day, or if the requested period ends with the day.
    whole = Log()
    whole.decisions, whole.outcomes = log.decisions[: 48 * 20], log.outcomes
    assert verdict_from_log(whole.write(tmp_path), daily)["left_out"] == {"unfinished_period": 24 * 20}
    until = replace(whole.write(tmp_path), period=Period.of(until="2025-03-03T00:00:00Z"))
    assert verdict_from_log(until, daily)["left_out"] == {}


def test_a_fast_clock_neither_ends_a_day_nor_matures_outcomes(tmp_path: Path) -> None:
    mature = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.replace(outcome_hours=24.0))
    now, log = pd.Timestamp.now(tz="UTC"), Log()
    for user, days in enumerate((0, 0, 365)):
        log.decide(f"u{user}", "incumbent", event_time=(now + pd.Timedelta(days=days)).isoformat())
    files = log.write(tmp_path)
    assert verdict_from_log(files, DAILY)["left_out"] == {"unfinished_period": 3}
    assert verdict_from_log(files, mature)["left_out"] == {"immature": 3}
    until = replace(files, period=Period(until=now + pd.Timedelta(days=3)))
    assert verdict_from_log(until, DAILY)["left_out"] == {"unfinished_period": 2}


def test_a_fast_clock_does_not_determine_the_newest_model(tmp_path: Path) -> None:
    log = traffic(200, 0.3)
    for row in log.decisions:
        row["model_digest"] = "second"
    ahead = (pd.Timestamp.now(tz="UTC") + pd.Timedelta(days=365)).isoformat()
    log.decide("u0", "incumbent", model_digest="first", event_time=ahead)
    files = log.write(tmp_path)
    found = verdict_from_log(files, EXPERIMENT)
    assert found["models"] == {"challenger": "second", "incumbent": "second"} and found["left_out"] == {}
    assert files.models() == ["second"]
    later = {"event_time": log.decisions[-1]["event_time"], "model_digest": "another"}
    log.decide("qa", "incumbent", override=True, **later)  # the override serves no users
    assert log.write(tmp_path).models() == ["second"]


def test_days_of_a_campaign_follow_its_own_budget(tmp_path: Path) -> None:
    budgets = [
        {**CONTENT["budgets"][0], "campaign": "tokyo's", "period": "day", "timezone": "Asia/Tokyo"},
        {**CONTENT["budgets"][0], "campaign": "london", "period": "day"},
    ]
    log = paced_against_unpaced(60)
    for user, row in enumerate(log.decisions):
        row["campaign_id"] = ("tokyo's", "london", "without a budget", "tokyo's")[user // 2 % 4]
    found = verdict_from_log(log.write(tmp_path), Experiment.from_dict({**CONTENT, "budgets": budgets}))
    of_an_hour = Counter(row["campaign_id"] for row in log.decisions[40 * 20 : 44 * 20])
    assert of_an_hour["tokyo's"] == 2 * of_an_hour["london"] == 40
    left_out = {
        name: sum(row["campaign_id"] == name for row in log.decisions[-hours * 20 :])
        for name, hours in (("tokyo's", 21), ("london", 12))
    }
    assert found["left_out"] == {"unfinished_period": sum(left_out.values())}


def stopped_when_it_goes_badly(bad: float, rng: np.random.Generator, stage: str = "off") -> Log:
    """Return a log of 28 days on which the challenger is better, except on every fourth day.

    On these days, its click rate is `bad`, and all users move to the incumbent at noon.
    """
    log = Log()
    for hour in range(28 * 24 + 1):
        day, off = hour // 24, hour // 24 % 4 == 3 and hour % 24 >= 12
        for user in range(40):
            arm = "incumbent" if off or user % 2 else "challenger"
            at = (BEGIN + pd.Timedelta(hours=hour, minutes=user)).isoformat()
            whole = {"stage": stage, "assignment_probability": 1.0} if off else {}
            decision = log.decide(f"u{(hour * 40 + user) % 4_000}", arm, event_time=at, **whole)
            rate = 0.2 if arm == "incumbent" else bad if day % 4 == 3 else 0.24
            if rng.random() < rate:
                log.learn(decision, "click", 1.0)
    return log


@pytest.mark.parametrize(("bad", "verdict"), [(0.24, "ship"), (0.02, "inconclusive")])
@pytest.mark.parametrize(("stage", "reason"), [("off", "switched_off"), ("shadow", "changed_period")])
def test_days_cut_short_by_harm_count(tmp_path: Path, bad: float, verdict: str, stage: str, reason: str) -> None:
    """The challenger is stopped at noon on its bad days.

    If only complete days counted, these days would be missing and the challenger would look better.
    """
    log = stopped_when_it_goes_badly(bad, np.random.default_rng(0), stage)
    daily = DAILY.replace(metrics=DAILY.metrics.replace(guardrails=()))
    found = verdict_from_log(log.write(tmp_path), daily)
    assert found["left_out"][reason] > 0 and found["lift_ci"][0] > 0
    assert found["verdict"] == verdict, found["reason"]
    assert (found["code"] == CHANGED_DAYS.code) == (verdict == "inconclusive")


def test_a_guardrail_breached_only_on_cut_days_does_not_hold(tmp_path: Path) -> None:
    log = stopped_when_it_goes_badly(0.24, np.random.default_rng(0))
    for row in log.decisions:
        dear = row["arm"] == "challenger" and pd.Timestamp(row["event_time"]).day % 4 == 0  # days with a kill
        log.learn(row["decision_id"], "cost", 5.0 if dear else 0.2)
    found = verdict_from_log(log.write(tmp_path), DAILY)
    assert found["guardrails"][0]["name"] == "cost_per_decision" and found["guardrails"][0]["state"] == "open"
    assert found["verdict"] == "inconclusive"


def daily(stages: Iterable[tuple[str, float, int]], clicks: Callable[[str, int], bool], same: bool = False) -> Log:
    """Return consecutive days, each with a stage, the challenger's share and a number of users."""
    log = Log()
    for day, (stage, share, users) in enumerate(stages):
        for user in range(users):
            arm = "challenger" if user % 20 < 20 * share else "incumbent"
            at = BEGIN + pd.Timedelta(days=day, seconds=user * 86_400 / users)
            own = {"stage": stage, "assignment_probability": share if arm == "challenger" else 1 - share}
            decision = log.decide(f"u{user}" if same else f"{stage} {user}", arm, event_time=at.isoformat(), **own)
            if clicks(arm, day):
                log.learn(decision, "click", 1.0)
    return log


def test_run_time_counts_days_by_their_weight_in_the_lift(tmp_path: Path) -> None:
    """The one day at 50 % has nearly all of the weight in the lift."""
    rng = np.random.default_rng(0)
    stages = [("5%", 0.05, 60)] * 12 + [("50%", 0.5, 4_000)]
    log = daily(stages, lambda arm, day: rng.random() < (0.5 if arm == "challenger" else 0.2))
    judged = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.replace(guardrails=()), min_runtime_hours=0)
    found = verdict_from_log(log.write(tmp_path), judged)
    assert found["verdict"] == "ship" and 24 < found["hours"] < 30
    waiting = verdict_from_log(log.write(tmp_path), judged.replace(min_runtime_hours=168))
    assert waiting["verdict"] == "inconclusive"
    alike = Log()
    alike.decisions = [row | {"stage": "50%", "assignment_probability": 0.5} for row in log.decisions]
    one = verdict_from_log(alike.write(tmp_path), judged)
    assert one["hours"] == pytest.approx(13 * 24, rel=0.01), "all hours of one stage count"


def test_run_time_counts_a_day_once_if_the_same_users_return_daily(tmp_path: Path) -> None:
    """Each of the 14 days must count about the same."""
    stages = [("25%", 0.25, 400)] + [("50%", 0.5, 400)] * 13
    log = daily(stages, lambda arm, day: day == 0 and arm == "challenger", same=True)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(min_runtime_hours=168))
    assert 13 * 24 < found["hours"] < 14 * 24
    assert found["lift"] == pytest.approx(0.1875 / (0.1875 + 13 * 0.25))


def test_an_outcome_reported_late_never_counts(tmp_path: Path) -> None:
    """Both arms have the same policy, but the challenger's clicks come after two days, too late to count."""
    log, last = traffic(600, 0.2, rounds=12), pd.Timestamp("2025-03-06", tz="UTC")
    taken = {row["decision_id"]: (row["arm"], pd.Timestamp(row["event_time"])) for row in log.decisions}
    clicks = [row for row in log.outcomes if row["kind"] == "click"]
    heard = []
    for row in clicks:
        arm, at = taken[row["decision_id"]]
        for hours in (1, 60) if arm == "incumbent" else (48, 60):
            received = at + pd.Timedelta(hours=hours)
            heard.append({**row, "event_time": at.isoformat(), "received_time": received.isoformat()})
    metrics = EXPERIMENT.metrics.replace(guardrails=(), outcome_hours=24.0)

    def judged(heard: list[dict[str, Any]]) -> dict[str, Any]:
        log.outcomes = heard
        return verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))

    early = judged([row for row in heard if pd.Timestamp(row["received_time"]) < last])
    found = judged(heard)
    assert early["arms"] == found["arms"] and found["arms"]["challenger"]["totals"]["click"] == 0
    assert found["late_outcomes"] > 0
    assert found["lift_ci"][1] < 0 and (found["verdict"], found["code"]) == ("inconclusive", LATE_GAP.code)


def test_unequal_late_corrections_of_costs_ship_nothing(tmp_path: Path) -> None:
    """Costs are estimates that are corrected two days later, differently between the arms."""

    def judged(correction: float) -> dict[str, Any]:
        log = traffic(600, 0.5, rounds=12)
        for row in list(log.decisions):
            for hours, value in ((1, 0.1), (48, correction if row["arm"] == "challenger" else 0.01)):
                known = pd.Timestamp(row["event_time"]) + pd.Timedelta(hours=hours)
                log.learn(row["decision_id"], "cost", value, event_time=known.isoformat())
        metrics = EXPERIMENT.metrics.replace(outcome_hours=24.0)
        return verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))

    assert judged(0.01)["verdict"] == "ship"
    found = judged(0.1)
    assert (found["verdict"], found["code"]) == ("inconclusive", LATE_GAP.code)


def test_a_few_late_outcomes_of_one_arm_stop_nothing(tmp_path: Path) -> None:
    """Both arms have the same policy, but 2 % of the challenger's clicks come a day late."""
    log, rng = Log(), np.random.default_rng(0)
    for number in range(7_200):
        arm = "challenger" if number % 2 else "incumbent"
        decision = log.decide(f"u{number % 600}", arm)
        late = arm == "challenger" and rng.random() < 0.02
        known = pd.Timestamp(log.decisions[-1]["event_time"]) + pd.Timedelta(hours=30 if late else 1)
        if rng.random() < 0.99:
            log.learn(decision, "click", 1.0, event_time=known.isoformat())
    end = pd.Timestamp(log.decisions[-1]["event_time"]) + pd.Timedelta(days=3)
    log.decide("u", "incumbent", stage="off", assignment_probability=1.0, event_time=end.isoformat())
    judged = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.replace(guardrails=(), outcome_hours=24.0))
    found = verdict_from_log(log.write(tmp_path), judged)
    assert found["lift_ci"][1] < 0 and found["late_outcomes"] > 50
    assert (found["verdict"], found["code"]) == ("inconclusive", LATE_OUTCOMES.code)


def test_a_stage_with_only_late_outcomes_causes_no_difference_between_arms(tmp_path: Path) -> None:
    """Most of the challenger's decisions come after the stage with late outcomes."""
    log = ramp(4_000, {"incumbent": 0.3, "challenger": 0.5}, {"5%": 0.0, "25%": 0.0})
    stages = {row["decision_id"]: row["stage"] for row in log.decisions}
    taken = {row["decision_id"]: pd.Timestamp(row["event_time"]) for row in log.decisions}
    for place, row in enumerate(log.outcomes):
        late = stages[row["decision_id"]] == "5%" and place % 2
        row["event_time"] = (taken[row["decision_id"]] + pd.Timedelta(hours=30 if late else 1)).isoformat()
    end = pd.Timestamp(log.decisions[-1]["event_time"]) + pd.Timedelta(days=3)
    log.decide("u", "incumbent", stage="off", assignment_probability=1.0, event_time=end.isoformat())
    judged = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.replace(guardrails=(), outcome_hours=24.0))
    found = verdict_from_log(log.write(tmp_path), judged)
    assert found["verdict"] == "ship" and found["late_outcomes"] > 400


def budget(**changes: Any) -> Experiment:
    return Experiment.from_dict({**CONTENT, "budgets": [{**CONTENT["budgets"][0], "period": "day", **changes}]})


@pytest.mark.parametrize(
    ("changed", "experiment", "left_out"),
    [
        ({"layer": "before"}, DAILY, {"changed_period": 12 * 20, "other_experiment": 36 * 20, "unfinished_period": 20}),
        ({"experiment_version": "before"}, budget(pacing=None), {"changed_period": 24 * 20, "unfinished_period": 20}),
        ({"experiment_version": "before"}, budget(pacing={}), {"unfinished_period": 20}),  # pacing equalises spend
    ],
    ids=["layer", "unpaced-amount", "paced-amount"],
)
def test_days_with_unequal_budgets_do_not_count(
    tmp_path: Path, changed: dict[str, str], experiment: Experiment, left_out: dict[str, int]
) -> None:
    """During half of the days, the experiment has another layer or another file."""
    log = paced_against_unpaced(73)
    for place, row in enumerate(log.decisions):
        row |= {"salt": DAILY.salt, "layer": DAILY.layer, "experiment_version": "after"}
        row |= changed if place < 36 * 20 else {}
    found = verdict_from_log(log.write(tmp_path), experiment)
    assert found["left_out"] == left_out and found["lift"] == pytest.approx(0.0)


def test_days_on_which_the_experiment_was_off_are_no_run_time(tmp_path: Path) -> None:
    log = traffic(200, 0.9)
    for row in log.decisions[300:]:
        row["event_time"] = (pd.Timestamp(row["event_time"]) + pd.Timedelta(days=9)).isoformat()
    for hour in range(20, 9 * 24):
        at = (BEGIN + pd.Timedelta(hours=hour)).isoformat()
        log.decide("u", "incumbent", stage="off", assignment_probability=1.0, event_time=at)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(min_runtime_hours=168))
    assert (found["code"], found["hours"], found["values"]["hours"]) == (TOO_EARLY.code, 48, 48)


def test_a_large_log_is_judged_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {stage: DAILY.replace(stage=stage).shares()["challenger"] for stage in ("5%", "25%", "50%")}
    lake = Lake.open(tmp_path)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(
            f"""CREATE TABLE decisions AS
            WITH taken AS (
                SELECT range, hash(range) % 60000 AS u, if(range < 50000, '5%', if(range < 100000, '25%', '50%'))
                       AS stage, MAP {shares}[stage] AS share, hash(u) / 18446744073709551616.0 < share AS challenged,
                       TIMESTAMPTZ '2025-03-01 00:00+00' + INTERVAL 3 SECOND * range AS event_time,
                       format('{{:012x}}', epoch_ms(event_time)) AS ms
                FROM range(200000))
            SELECT left(ms, 8) || '-' || right(ms, 4) || '-7000-8000-' || format('{{:012x}}', range) AS decision_id,
                   md5('r' || range) AS request_id, 'u' || u AS user_id, stage,
                   if(challenged, 'challenger', 'incumbent') AS arm, if(challenged, share, 1 - share)
                   AS assignment_probability, 'c' AS campaign_id, 'test' AS experiment, 's' AS salt, 'l' AS layer,
                   true AS expose, false AS withdrawn, 0.01 AS latency_seconds, md5(arm) AS model_digest, event_time
            FROM taken"""
        )
        db.execute(
            """CREATE TABLE outcomes AS
            SELECT 'e' || decision_id AS event_id, decision_id, if(hash(decision_id) % 3 = 0, 'click', 'cost') AS kind,
                   0.5 AS value, event_time, event_time AS received_time FROM decisions"""
        )
        kinds: tuple[Kind, ...] = ("decision", "outcome")
        for kind in kinds:
            file = tmp_path / name_of(kind, BEGIN.to_pydatetime(), "made", arrived=True)
            file.parent.mkdir(parents=True)
            nulls = ", ".join(f'NULL::{type_} AS "{name}"' for name, type_ in sql_columns(kind).items())
            records = f"FROM {kind}s UNION ALL BY NAME SELECT {nulls} WHERE false"
            db.sql(f"SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM ({records})").write_parquet(str(file))
    compact(lake, datetime.now(UTC))
    log = DecisionLog.of(lake)
    found = verdict_from_log(log, DAILY)
    assert found["stages"] == ["5%", "25%", "50%"] and found["left_out"]["changed_period"] > 10_000
    monkeypatch.setattr("monitoring.decision_log._MEMORY_LIMIT", "80MB")
    assert verdict_from_log(log, DAILY) == found


def polled(users: int, harm: float, share: float, seed: int = 0) -> Log:
    """Return a log in which the challenger's costs are higher by `harm`.

    A single user makes the share `share` of the challenger's decisions, all without a cost.
    """
    rng = np.random.default_rng(seed)
    log = Log()
    for user in range(users):
        arm = "challenger" if user % 2 else "incumbent"
        for _ in range(1 + rng.poisson(2)):
            log.learn(log.decide(f"u{user}", arm), "cost", 0.4 * rng.random() + harm * (arm == "challenger"))
    decisions = sum(row["arm"] == "challenger" for row in log.decisions)
    for _ in range(round(share / (1 - share) * decisions)):
        log.decide("probe", "challenger", expose=False)
    return log


RAIL = {"name": "cost_per_decision", "direction": "down", "margin": 0.05}
GUARDED = EXPERIMENT.replace(metrics=EXPERIMENT.metrics.replace(guardrails=[RAIL]))


@pytest.mark.parametrize(("harm", "token"), [(0.145, "guardrail"), (0.0, "inconclusive")])
def test_a_poller_neither_passes_nor_breaches_a_guardrail(tmp_path: Path, harm: float, token: str) -> None:
    found = verdict_from_log(polled(1_000, harm, share=0.41).write(tmp_path), GUARDED)
    assert found["verdict"] == token, found["reason"]
    assert found["guardrails"][0]["state"] == ("breached" if harm else "held")
    assert found["guardrails"][0]["harm"] == pytest.approx(harm, abs=0.02)
    assert found["heavy_users"] == [{"arm": "challenger", "share": pytest.approx(0.41, abs=0.001)}]
    assert found["arms"]["challenger"]["capped_users"] == 1 and found["arms"]["incumbent"]["capped_users"] == 0


def test_a_stage_with_only_pollers_passes_no_guardrail(tmp_path: Path) -> None:
    log = polled(600, harm=0.2, share=0.0)
    for arm, probability in (("challenger", 0.05), ("incumbent", 0.95)):
        for _ in range(2_000):
            log.decide(f"probe-{arm}", arm, stage="5%", assignment_probability=probability, expose=False)
    found = verdict_from_log(log.write(tmp_path), GUARDED)
    assert found["verdict"] == "guardrail" and found["guardrails"][0]["harm"] == pytest.approx(0.2, abs=0.02)
    assert {user["arm"] for user in found["heavy_users"]} == {"challenger", "incumbent"}


def test_users_in_two_arms_are_a_fault(tmp_path: Path) -> None:
    log = traffic(200, 0.5)
    for user in range(10):
        log.decide(f"u{user}", "incumbent")
        log.decide(f"u{user}", "challenger")
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT)
    assert found["multiple_exposure_users"] == 10 and found["arms"]["challenger"]["users"] == 95
    assert (found["verdict"], found["code"]) == ("inconclusive", NOT_STICKY.code)


def test_replay_weights(tmp_path: Path) -> None:
    log = Log()
    weights = []
    for user in range(120):
        arm = "challenger" if user % 2 else "incumbent"
        matched, unknown, idle = (log.decide(f"u{user}", arm, expose=e) for e in (True, True, False))
        log.learn(matched, "click", 1.0 if user % 4 == 1 else 0.0)
        weights += [(matched, 4.0), (unknown, 0.0), (idle, 1.0)]
    lost = log.decide("u0", "incumbent")  # not evaluable without a weight
    log.learn(lost, "click", 1.0)
    written, frame = log.write(tmp_path), pd.DataFrame(weights, columns=["decision_id", "weight"])
    frame["decision_id"] = frame["decision_id"].map(ids_in(tmp_path))
    found = verdict_from_log(replace(written, weights=frame), EXPERIMENT)
    challenger, incumbent = found["arms"]["challenger"], found["arms"]["incumbent"]
    assert challenger["metrics"]["click_per_decision"] == pytest.approx(4.0 * 30 / (60 * 5))
    assert incumbent["metrics"]["click_per_decision"] == 0.0 and incumbent["totals"]["click"] == 1.0
    assert challenger["decisions"] == 180 and challenger["evaluable"] == 120
    assert incumbent["decisions"] == 181 and incumbent["evaluable"] == 120
    nothing = verdict_from_log(replace(log.write(tmp_path), weights=frame.assign(weight=0.0)), EXPERIMENT)
    assert nothing["verdict"] == "inconclusive" and nothing["lift"] is None and nothing["lift_ci"] == [None, None]


def test_a_replay_compares_the_arms_at_one_budget(tmp_path: Path) -> None:
    """The incumbent's decisions cost 2 each, so a budget of 1 per decision pays for half of them."""
    log = Log()
    weights = []
    for user in range(200):
        arm, cost, clickers = ("incumbent", 2.0, 9) if user % 2 else ("challenger", 0.5, 6)
        for _ in range(2):
            decision = log.decide(f"u{user}", arm)
            log.learn(decision, "cost", cost)
            log.learn(decision, "click", float(user // 2 % 30 < clickers))
            weights.append((decision, 3.0))
    written, frame = log.write(tmp_path), pd.DataFrame(weights, columns=["decision_id", "weight"])
    frame["decision_id"] = frame["decision_id"].map(ids_in(tmp_path))
    written = replace(written, weights=frame)
    free, bound = (verdict_from_log(replace(written, budget_per_decision=budget), EXPERIMENT) for budget in (None, 1.0))
    gain = {arm: found["metrics"]["click_per_decision"] for arm, found in free["arms"].items()}
    assert gain["incumbent"] > gain["challenger"] and free["lift"] < 0
    assert bound["arms"]["incumbent"]["metrics"]["click_per_decision"] == pytest.approx(gain["incumbent"] / 2)
    assert bound["arms"]["challenger"]["metrics"]["click_per_decision"] == pytest.approx(gain["challenger"])
    assert bound["lift"] == pytest.approx(gain["challenger"] - gain["incumbent"] / 2) and bound["lift"] > 0
    assert bound["arms"]["incumbent"]["effective_decisions"] == pytest.approx(200)


def test_no_decision_at_all(tmp_path: Path) -> None:
    log = traffic(120, 0.2)
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(name="unheard of"))
    assert found["verdict"] == "inconclusive" and found["lift"] is None and found["srm_p"] == 1.0
    assert found["left_out"] == {"other_experiment": 360}


def test_srm_guardrail_minimum_time_and_kill_switch(tmp_path: Path) -> None:
    log = traffic(400, 0.6)
    files = log.write(tmp_path)
    assert verdict_from_log(files, EXPERIMENT.replace(enabled=False))["srm_p"] == 1.0
    waiting = verdict_from_log(files, EXPERIMENT.replace(min_runtime_hours=48))
    assert (waiting["code"], waiting["values"]["needed"]) == (TOO_EARLY.code, 48)
    for row in log.outcomes:
        if row["kind"] == "cost" and int(log.decisions[int(row["decision_id"][1:])]["user_id"][1:]) % 2:
            row["value"] = 1.0
    assert verdict_from_log(log.write(tmp_path), EXPERIMENT)["verdict"] == "guardrail"
    log.decisions = [row for row in log.decisions if row["arm"] == "incumbent" or int(row["user_id"][1:]) < 200]
    assert verdict_from_log(log.write(tmp_path), EXPERIMENT)["verdict"] == "srm"


def test_an_unreadable_gain_is_reported(tmp_path: Path) -> None:
    traffic(4, 0.2).write(tmp_path)
    with pytest.raises(PeriodError, match="gain:"):
        verdict_of_period(str(tmp_path), "experiment.yaml", Period(), "{click: -1}", "", 0.0)


def test_the_gain_is_the_weighted_sum_of_outcomes_of_any_name(tmp_path: Path) -> None:
    log = Log()
    for user in range(400):
        decision = log.decide(f"u{user}", "challenger" if user % 2 else "incumbent")
        log.learn(decision, "click", 1.0)
        log.learn(decision, "price", 3.0 if user % 2 else -1.0)
        log.learn(decision, "price", 0.5)
    metrics = EXPERIMENT.metrics.replace(
        primary="gain_per_decision", secondary=("price_per_decision", "click_per_decision"), guardrails=()
    )
    experiment = EXPERIMENT.replace(metrics=metrics)
    found = verdict_from_log(log.write(tmp_path), experiment, Gain.of_spec({"click": 0.1, "price": 2}))
    assert found["total_units"]["gain"] == "0.1 x click + 2 x price"
    assert found["arms"]["challenger"]["metrics"]["gain_per_decision"] == pytest.approx(0.1 + 7)
    assert found["arms"]["incumbent"]["totals"]["gain"] == pytest.approx(200 * (0.1 - 1))
    assert found["lift"] == pytest.approx(8)
    assert found["secondary"]["price_per_decision"]["lift"] == pytest.approx(4)
    assert found["secondary"]["click_per_decision"]["lift"] == 0


def test_money_is_reported_per_currency_unit_and_at_equal_spend(tmp_path: Path) -> None:
    """Both arms have equally many clicks, but the challenger's cost half as much."""
    log, rng = Log(), np.random.default_rng(5)
    for user in range(1_000):
        arm = "challenger" if user % 2 else "incumbent"
        for _ in range(3):
            decision = log.decide(f"u{user}", arm)
            log.learn(decision, "cost", (0.1 if user % 2 else 0.2) * rng.uniform(0.5, 1.5))
            if rng.random() < 0.3:
                log.learn(decision, "click", 1.0)
    metrics = {
        "primary": "gain_per_cost",
        "secondary": ["cost_per_click", "click_per_decision"],
        "guardrails": [{"name": "cost_per_click", "direction": "down", "margin": 0.0}],
        "outcome_hours": None,
    }
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))
    for arm in found["arms"].values():
        assert arm["metrics"]["gain_per_cost"] == pytest.approx(arm["totals"]["gain"] / arm["totals"]["cost"])
        assert arm["metrics"]["gain_per_decision"] == pytest.approx(arm["totals"]["gain"] / arm["decisions"])
    ours, theirs = (found["arms"][name]["totals"] for name in ("challenger", "incumbent"))
    assert (found["verdict"], found["metric"]) == ("ship", "gain_per_cost")
    assert found["lift"] == pytest.approx(ours["gain"] / ours["cost"] - theirs["gain"] / theirs["cost"])
    cost_per_click = found["secondary"]["cost_per_click"]
    assert cost_per_click["lift"] == pytest.approx(ours["cost"] / ours["gain"] - theirs["cost"] / theirs["gain"])
    assert cost_per_click["lift_ci"][1] < 0.0 and found["guardrails"][0]["state"] == "held"
    money = found["money"]
    assert money["lift"] == pytest.approx(found["lift"]) and money["spent"] == pytest.approx(ours["cost"])
    assert money["incremental"] == pytest.approx(found["lift"] * ours["cost"])


def test_each_number_has_one_name_and_its_unit(tmp_path: Path) -> None:
    log, spec = traffic(400, 0.5), DatasetSpec.load("simulator").replace(reward={"gain": "revenue"})
    for row in log.decisions:
        log.learn(row["decision_id"], "revenue", 3.0)
    rail = {"name": "gain_per_cost", "direction": "up", "margin": 1.0}
    metrics = {"primary": "click_per_decision", "guardrails": [rail], "outcome_hours": None}
    experiment = EXPERIMENT.replace(metrics=metrics)
    found = verdict_from_log(log.write(tmp_path), experiment, counted_gain(spec))
    assert found["units"] == {
        "click_per_decision": "clicks per decision",
        "gain_per_cost": "EUR per EUR",
        "click_per_cost": "clicks per EUR",
        "cost_per_decision": "EUR per decision",
    }
    challenger = found["arms"]["challenger"]
    assert challenger["metrics"].keys() == {"click_per_decision", "click_per_cost", "cost_per_decision"}
    assert challenger["totals"].keys() == {"click", "cost"} and found["currency"] == "EUR"
    assert found["money"]["metric"] == "click_per_cost"


def test_stages_of_a_ratio_are_weighted_by_decisions(tmp_path: Path) -> None:
    log = Log()
    for stage, share, users in (("5%", 0.05, 400), ("50%", 0.5, 400)):
        for user in range(users):
            challenger = user % 2 == 0
            probability = share if challenger else 1 - share
            decision = log.decide(
                f"{stage}-{user}", "challenger" if challenger else "incumbent", stage=stage,
                assignment_probability=probability,
            )  # fmt: skip
            log.learn(decision, "cost", 2.0 if challenger and stage == "50%" else 1.0)
            if user % 4 < 2 or (challenger and stage == "5%"):
                log.learn(decision, "click", 1.0)
    metrics = {"primary": "click_per_cost", "secondary": ["cost_per_click"], "outcome_hours": None}
    found = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))
    # The lift is 0.5 in the first stage and -0.25 in the second, and both stages have the same weight.
    assert found["lift"] == found["money"]["lift"] == pytest.approx((0.5 - 0.25) / 2.0)
    assert found["secondary"]["cost_per_click"]["lift"] == pytest.approx((-1.0 + 2.0) / 2.0)


def test_secondary_metrics_share_one_false_discovery_rate(tmp_path: Path) -> None:
    log = traffic(600, 0.5)
    metrics = {
        "primary": "click_per_decision",
        "secondary": ["cost_per_click", "exposure_ratio", "cost_per_decision"],
        "outcome_hours": None,
    }
    secondary = verdict_from_log(log.write(tmp_path), EXPERIMENT.replace(metrics=metrics))["secondary"]
    assert {name: one["significant"] for name, one in secondary.items()} == {
        "cost_per_click": True, "exposure_ratio": False, "cost_per_decision": False
    }  # fmt: skip
    assert secondary["cost_per_click"]["p"] < 0.01 and secondary["exposure_ratio"]["p"] == 1.0


@pytest.mark.parametrize(("effect", "token"), [(0.5, "futile"), (0.01, "inconclusive"), (None, "inconclusive")])
def test_the_minimum_effect_is_ruled_out_once_possible(tmp_path: Path, effect: float | None, token: str) -> None:
    found = verdict_from_log(traffic(1_000, 0.2).write(tmp_path), EXPERIMENT.replace(minimum_effect=effect))
    assert (found["verdict"], found["futile"]) == (token, None if effect is None else token == "futile")

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Newest, Traffic
from monitoring.experiments.traffic import newest_of, spend_of, traffic_of
from monitoring.messages import SILENT
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.pages.words import duration
from tests.experiments import experiment
from tests.features.collect.decision_logs import START, decision, outcome, write
from tests.features.collect.test_shadows import shadow


def made(**changes: Any) -> Experiment:
    return Experiment.from_dict(experiment("http://arms", name="first", **changes))


def decided(name: str, arm: str, minutes: float = 0.0, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"experiment": "first", "salt": "s", "arm": arm, "stage": "50%", "fallback_reason": None}
    own |= {"assignment_probability": 0.5, "channel": "search", "expose": True, "campaign_id": "spring"}
    return decision(name, minutes, **{**own, **changes})


def traffic_in(log: DecisionLog, experiment: Experiment) -> Traffic | None:
    with experiment_users(log, experiment, CLICK) as read:
        return traffic_of(read.db, log, experiment)


def test_channels_of_each_arm(tmp_path: Path) -> None:
    decisions = [
        decided("a", "incumbent"),
        decided("b", "incumbent", 1, expose=False),
        decided("c", "challenger", 2, channel="video"),
        decided("c", "challenger", 2, channel="video"),  # a duplicate record
        decided("d", "challenger", 3, fallback_reason="model_error"),
        decided("e", "challenger", 4, withdrawn=True),
        decided("f", "challenger", 5, salt="before"),
        decided("h", "challenger", 6, override=True),
        decided("g", "incumbent", 6, assignment_probability=1.0, stage="off"),
    ]
    found = traffic_in(DecisionLog.of(write(tmp_path, decisions)), made())
    assert found is not None and not found["shadow"]
    assert found["arms"]["incumbent"] == {
        "decisions": 2, "exposures": 1, "fallbacks": 0, "channels": {"search": {"decisions": 2, "exposures": 1}},
    }  # fmt: skip
    challenger = found["arms"]["challenger"]
    assert (challenger["decisions"], challenger["exposures"], challenger["fallbacks"]) == (2, 2, 1)
    assert challenger["channels"].keys() == {"search", "video"}
    assert traffic_in(DecisionLog.of(tmp_path / "nothing"), made()) is None


def test_in_the_shadow_traffic_shows_the_challengers_choices(tmp_path: Path) -> None:
    own: dict[str, Any] = {"stage": "shadow", "assignment_probability": 1.0}
    decisions = [decided(f"d{n}", "incumbent", n, **own) for n in range(3)]
    shadows = [{**shadow("d0", channel="video", expose=True), "experiment": "first"},
               {**shadow("d1", fault="model_error", channel=None, expose=None), "experiment": "first"},
               {**shadow("d9"), "experiment": "first"}]  # fmt: skip
    found = traffic_in(DecisionLog.of(write(tmp_path, decisions, shadows=shadows)), made(stage="shadow"))
    assert found is not None and found["shadow"] and found["arms"]["incumbent"]["decisions"] == 3
    assert found["arms"]["challenger"] == {
        "decisions": 2, "exposures": 1, "fallbacks": 1, "channels": {"video": {"decisions": 1, "exposures": 1}},
    }  # fmt: skip


def test_spend_is_compared_with_the_account_it_was_taken_from(tmp_path: Path) -> None:
    budgets = [
        {"campaign": "*", "channel": "*", "amount": 100.0},
        {"campaign": "spring", "channel": "video", "amount": 10.0, "period": "day"},
    ]
    day = 24 * 60
    decisions = [
        decided("a", "incumbent"),
        decided("b", "challenger", channel="video"),
        decided("c", "challenger", day, channel="video"),
        decided("d", "challenger", day, channel="video", campaign_id="summer"),
    ]
    costs = [outcome(f"e-{name}", name, value=value, minutes=day + 1)
             for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5), ("d", 0.25))]  # fmt: skip
    log = DecisionLog.of(write(tmp_path, decisions, [*costs, costs[0]]))
    experiment = made(budgets=budgets)
    with experiment_users(log, experiment, CLICK) as read:
        spent = {(of["arm"], of["period"]): of for of in spend_of(read.db, experiment, START.timestamp() + 90_000)}
    assert spent["*", "total"]["spent"] == pytest.approx(3.75) and spent["*", "total"]["limit"] == 100.0
    assert spent["incumbent", "total"]["spent"] == 1.0 and spent["incumbent", "total"]["limit"] == 50.0
    assert spent["challenger", "total"]["spent"] == pytest.approx(2.75)
    assert spent["challenger", "day"]["spent"] == 0.5 and spent["challenger", "day"]["limit"] == 5.0


_DAY = 24 * 60


def newest_in(log: DecisionLog, experiment: Experiment, now: float) -> Newest | None:
    with experiment_users(log, experiment, CLICK) as read:
        return newest_of(read.db, now)


@pytest.mark.parametrize(
    ("minutes", "now", "said"),
    [
        (range(0, 120), 130, None),
        (range(0, 120), 139, ("20 minutes", "2026-01-01 13:59", "1 minute")),
        (range(0, 1200, 60), 1230, None),
        (range(0, 1200, 60), 1262, ("2 hours", "2026-01-02 07:00", "60 minutes")),
        # The same gap every night.
        ([*range(0, 60), *range(600, 660)], 900, None),
        # An old outage must not raise the usual interval between decisions.
        ([0, *range(2 * _DAY, 10 * _DAY, 30)], 10 * _DAY + 40, ("70 minutes", "2026-01-11 11:30", "30 minutes")),
        ([0], 10, None),
        ([0], 30, ("30 minutes", "2026-01-01 12:00", "unknown")),
    ],
)  # fmt: skip
def test_silence_is_twice_the_longest_gap(tmp_path: Path, minutes: Iterable[float], now: float, said: Any) -> None:
    decisions = [decided(f"d{n}", "incumbent", minute) for n, minute in enumerate(minutes)]
    found = newest_in(DecisionLog.of(write(tmp_path, decisions)), made(), START.timestamp() + 60 * now)
    assert found is not None
    last = (datetime.fromisoformat(found["at"]) - START).total_seconds()
    assert found["age_seconds"] == 60 * now - last
    named = dict(zip(("silence", "since", "usual"), said or (), strict=False))
    assert found["silence"] == (SILENT(**named) if said else None)


def test_every_decision_of_the_experiment_counts_and_no_other(tmp_path: Path) -> None:
    decisions = [
        decided("a", "incumbent"),
        decided("b", "incumbent", 3, assignment_probability=1.0, stage="off"),  # with the kill switch on
        decided("c", "challenger", 4, salt="before"),
        decided("d", "challenger", 5, experiment="second"),
        decided("e", "challenger", 60),  # from a clock that is ahead
    ]
    log = DecisionLog.of(write(tmp_path, decisions))
    now = START.timestamp() + 6 * 60
    found = newest_in(log, made(), now)
    assert found is not None and (found["at"], found["age_seconds"]) == ("2026-01-01T12:03:00+00:00", 180.0)
    assert newest_in(log, made(salt="new"), now) is None
    assert newest_in(DecisionLog.of(tmp_path / "nothing"), made(), now) is None


def test_a_duration_uses_the_largest_unit_that_fits_twice() -> None:
    said = {20.0: "20 seconds", 60.0: "1 minute", 90.0: "90 seconds", 150.0: "2 minutes", 5_400.0: "90 minutes",
            9_000.0: "2 hours", 90_000.0: "25 hours", 400_000.0: "5 days"}  # fmt: skip
    assert {seconds: duration(seconds) for seconds in said} == said

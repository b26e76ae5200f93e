"""How old the newest decision is, and how long is long."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Newest
from monitoring.experiments.newest import newest_of
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.pages.words import duration
from tests.features.collect.decision_logs import START, write
from tests.monitoring.experiments.test_traffic import decided, made

_DAY = 24 * 60


def newest(folder: Path, minutes: Iterable[float], now: float) -> Newest | None:
    """What is found that many minutes after the start, with decisions at others."""
    decisions = [decided(f"d{n}", "incumbent", minute) for n, minute in enumerate(minutes)]
    return newest_in(DecisionLog.of(write(folder, decisions)), made(), START.timestamp() + 60 * now)


def newest_in(log: DecisionLog, experiment: Experiment, now: float) -> Newest | None:
    with experiment_users(log, experiment, CLICK) as read:
        return newest_of(read.db, now)


@pytest.mark.parametrize(
    ("minutes", "now", "said"),
    [
        (range(0, 120), 130, None),
        (range(0, 120), 139, "no decision has come for 20 minutes, since 2026-01-01 13:59 UTC; in the week before, the "
                             "longest time without one was 1 minute"),
        (range(0, 1200, 60), 1230, None),
        (range(0, 1200, 60), 1262, "no decision has come for 2 hours, since 2026-01-02 07:00 UTC; in the week before, "
                                   "the longest time without one was 60 minutes"),
        ([*range(0, 60), *range(600, 660)], 900, None),  # its night
        ([0, *range(2 * _DAY, 10 * _DAY, 30)], 10 * _DAY + 40, "no decision has come for 70 minutes"),  # an old outage
        ([0], 10, None),
        ([0], 30, "no decision has come for 30 minutes, since 2026-01-01 12:00 UTC"),
    ],
)  # fmt: skip
def test_long_is_twice_what_it_ever_was(tmp_path: Path, minutes: Iterable[float], now: float, said: str | None) -> None:
    found = newest(tmp_path, minutes, now)
    assert found is not None
    last = (datetime.fromisoformat(found["at"]) - START).total_seconds()
    assert found["age_seconds"] == 60 * now - last
    assert found["silence"] is None if said is None else (found["silence"] or "").startswith(said)


def test_whatever_it_decided_counts_and_no_other_experiment(tmp_path: Path) -> None:
    decisions = [
        decided("a", "incumbent"),
        decided("b", "incumbent", 3, assignment_probability=1.0, stage="off"),  # behind the kill switch
        decided("c", "challenger", 4, salt="before"),
        decided("d", "challenger", 5, experiment="second"),
        decided("e", "challenger", 60),  # of a clock that is ahead
    ]
    log = DecisionLog.of(write(tmp_path, decisions))
    now = START.timestamp() + 6 * 60
    found = newest_in(log, made(), now)
    assert found is not None and (found["at"], found["age_seconds"]) == ("2026-01-01T12:03:00+00:00", 180.0)
    assert newest_in(log, made(salt="new"), now) is None
    assert newest_in(DecisionLog.of(tmp_path / "nothing"), made(), now) is None


def test_a_time_is_in_the_largest_unit_of_which_it_has_two() -> None:
    said = {20.0: "20 seconds", 60.0: "1 minute", 90.0: "90 seconds", 150.0: "2 minutes", 5_400.0: "90 minutes",
            9_000.0: "2 hours", 90_000.0: "25 hours", 400_000.0: "5 days"}  # fmt: skip
    assert {seconds: duration(seconds) for seconds in said} == said

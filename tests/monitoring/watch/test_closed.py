"""Tests of days without decisions, as closing days and as faults."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from monitoring.watch.check import closed_as_usual
from monitoring.watch.stream_names import GROUPS
from mtorl.log.lake import Lake
from tests.features.collect.decision_logs import START, decision, write
from tests.monitoring.watch.market import DAYS, Market

DAY = timedelta(days=1)
MIDNIGHT = START.replace(hour=0)  # start of the first day


def log(folder: Path, days: int, closed: Collection[int]) -> datetime:
    folder.mkdir()
    write(folder, [decision(f"d{day}", 1_440.0 * day) for day in range(days) if day not in closed], [])
    return MIDNIGHT + days * DAY


CASES = {
    "each-week": (28, (6, 13, 20, 27), True),
    "once-before": (28, (20, 27), False),
    "twice-before": (28, (13, 20, 27), True),
    "open-on-the-last-but-one": (28, (6, 20, 27), False),
    "weekends": (28, (12, 13, 19, 20, 26, 27), True),
    "two-weeks-old": (14, (6, 13), False),
    "the-third-time": (21, (6, 13, 20), True),
    "the-first-has-no-week-before": (15, (0, 7, 14), False),
    "after-an-outage": (28, (6, 13, *range(14, 21), 27), True),
    "after-an-outage-and-open-before": (28, (6, *range(14, 21), 27), False),
    "an-outage-between": (35, (6, 13, 20, *range(21, 28), 34), True),
    "an-outage-now": (28, (6, 13, 20, *range(21, 28)), False),
}


@pytest.mark.parametrize(("days", "closed", "usual"), CASES.values(), ids=CASES)
def test_closed_as_usual(days: int, closed: tuple[int, ...], usual: bool, tmp_path: Path) -> None:
    end = log(tmp_path / "log", days, closed)
    assert closed_as_usual(Lake.open(tmp_path / "log"), end, DAY) is usual


def test_periods_other_than_days(tmp_path: Path) -> None:
    """Six hours that are empty every day count as closed. A week without decisions does not."""
    assert not closed_as_usual(Lake.open(tmp_path), MIDNIGHT, DAY), "an empty log has no usual days"
    end = log(tmp_path / "log", 28, ())
    assert closed_as_usual(Lake.open(tmp_path / "log"), end, timedelta(hours=6))
    assert not closed_as_usual(Lake.open(tmp_path / "log"), end + timedelta(days=7), timedelta(days=7))


@pytest.mark.integration
def test_a_check_on_mondays(tmp_path: Path) -> None:
    """After two empty Sundays, empty Sundays count as closed, but an empty Monday is still a fault."""
    market = Market(tmp_path, replace(DAYS, users_a_day=20))

    def why() -> set[str]:
        groups = market.check().groups
        return {fault.reason if (fault := groups[name].not_judged) else "" for name in GROUPS}

    seen = []
    for _ in range(4):
        market.live(6)
        market.next += 1
        seen.append(why())
    assert seen == [{"no_decisions"}] * 2 + [{"closed"}] * 2
    market.next += 1
    assert why() == {"no_decisions"}

"""Simulates A/A experiments in which more outcomes of one arm arrive late, to measure false verdicts.

Late outcomes do not count as gain, so the arm with more late outcomes seems worse.
"""

from typing import Any

import numpy as np

from benchmarks.experiment_runs.judge import ALPHA, rate_of
from benchmarks.experiment_runs.markets import Clicks
from monitoring.verdict.comparison import Comparison
from monitoring.verdict.experiment_users import ONE, Users
from mtorl.experiment.inference.sums import UserSums
from mtorl.experiment.inference.verdict import reach_verdict
from mtorl.experiment.metrics import COST, DECISIONS, WEIGHT, column, late_column
from mtorl.log.gain import Gain

# Share of the incumbent's clicks that arrive too late to count.
LATE = 0.04
_CLICK = Gain.of_spec("click")
_DAYS, _FIRST_LOOK, _DELAYS = 28, 7, (1, 3, 8)


def late(gap: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Measure how often identical arms get a false verdict if more of the challenger's clicks arrive late.

    `gap` is the difference of the arms' shares of late clicks.
    """
    false_RV = np.array([_run(gap, rng) for _ in range(runs)])
    return {"gap": gap, "runs": runs, "in_time_only": float(false_RV[:, 1].mean()), **rate_of(false_RV[:, 0])}


def _run(gap: float, rng: np.random.Generator) -> tuple[bool, bool]:
    """Return whether the real verdict, and the verdict without late clicks, are ever wrong."""
    market, users = Clicks(), Clicks.users
    day, ours = np.sort(rng.integers(0, _DAYS, users)), rng.random(users) < 0.5
    decisions = 1.0 + rng.poisson(2.0, users)
    clicks = rng.binomial(decisions.astype(np.int64), rng.beta(1.0, 1.0 / market.rate - 1.0, users))
    missing = rng.binomial(clicks, LATE + gap * ours)
    known = day + rng.choice(_DELAYS, users)
    found = [False, False]
    for look in range(_FIRST_LOOK, _DAYS + 1):
        there = slice(np.searchsorted(day, look))
        columns = {
            DECISIONS: decisions[there],
            column("click"): (clicks - missing)[there],
            late_column("click"): missing[there] * (known[there] < look),
        }
        comparison = Comparison(_users(columns, ours[there]), "challenger", _CLICK, None, ALPHA)
        lift = comparison.lift("click_per_decision")
        with_late = Comparison(comparison.users, "challenger", _CLICK, None, ALPHA, with_late=True)
        whole = {"late_gap": comparison.late_gap({"click"}), "with_late": with_late.lift("click_per_decision")}
        for number, more in enumerate((whole, {})):
            found[number] |= reach_verdict(lift, srm_p=1.0, **more).token in ("ship", "stop")
    return found[0], found[1]


def _users(columns: dict[str, np.ndarray], ours: np.ndarray) -> Users:
    numerators = {"click_per_decision": ((column("click"), 1.0),), COST: ((late_column("click"), 1.0),)}
    sums = UserSums((*columns, ONE), 1, 2, numerators, {WEIGHT: DECISIONS})
    found = Users(["50%"], ["incumbent", "challenger"], sums, np.zeros_like(sums.totals_CB), np.full(1, np.inf))
    number, arm = np.arange(len(ours)), ours.astype(np.intp)
    zero, one = np.zeros_like(arm), np.ones(len(ours))
    found.add({**columns, ONE: one, "late": zero, "stage": zero, "unit": number, "arm": arm})
    return found

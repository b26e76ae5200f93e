"""Experiments with users who decide far more often than others, each with its weight (`heavy_users.py`).

    measure     a bot in the challenger's arm makes a fixed share of the arm's decisions, at every look
    uneven      users differ in how often they decide, by a factor of hundreds, and the busy ones click less

A decision brings 1 or nothing, at a rate of each user's own: a click or, of a guardrail, a cost of one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.experiment_runs import arrivals
from benchmarks.experiment_runs.judge import ALPHA, judge, upper_bound
from benchmarks.experiment_runs.markets import Clicks
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.statistics import estimate, one_sided_width
from mtorl.experiment.inference.sums import DENOMINATOR, Sums
from mtorl.experiment.inference.verdict import error_share

SHARES = (0.01, 0.05, 0.5)
OF_DECISIONS = (0.0, 0.1, 0.3, 0.6)
COST, MARGIN, HARM = 0.2, 0.05, 0.145  # per decision, of the incumbent; accepted; and as it was seen
UNEVEN_USERS, UNEVEN_SIGMA = 10_000, 1.5
LOOKS = arrivals.looks("geometric", Clicks.users)


def with_bot(runs: Iterator[Sums], of_decisions: float, rate: float) -> Iterator[Sums]:
    """Add a user to the challenger's arm: `of_decisions` is its share of the arm's decisions, `rate` their yield."""
    for sums in runs:
        if not of_decisions:
            yield sums
            continue
        decisions = sums.totals[..., 0, 0, DENOMINATOR] * of_decisions / (1.0 - of_decisions)
        decisions *= user_weights(decisions, Clicks.typical)
        figures = np.stack([rate * decisions, decisions], -1)
        users, positive, totals, products = (
            field.copy() for field in (sums.users, sums.positive, sums.totals, sums.products)
        )
        users[..., 0, 0] += 1.0
        positive[..., 0, 0] += rate > 0.0
        totals[..., 0, 0, :] += figures
        products[..., :2, :2] += figures[..., :, None] * figures[..., None, :]
        yield Sums(users, positive, totals, products)


def measure(share: float, of_decisions: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """How often an experiment with such a bot is wrong, and how often it finds a harm.

    `missed`: false verdicts of A/A experiments, by what the bot clicks on. `rolled_back`: experiments with a harm as
    large as the margin that are rolled back, the bot being dearest. `found`: those with a larger harm that are rolled
    back, the bot costing nothing, and `found_users`: after how many users of the challenger on average.
    """

    def runs_of(lift: float, rate: float, bot: float) -> Iterator[Sums]:
        market = Clicks(rate=rate, lift=lift)
        return with_bot(arrivals.runs(market, share, LOOKS, runs, rng), of_decisions, bot)

    false = {what: judge(runs_of(0.0, Clicks.rate, rate), 0.0) for what, rate in (("nothing", 0.0), ("all", 1.0))}
    accepted, _ = _rolled_back(runs_of(MARGIN / COST, COST, 1.0))
    found, users = _rolled_back(runs_of(HARM / COST, COST, 0.0))
    return {
        "share": share,
        "of_decisions": of_decisions,
        "runs": runs,
        "missed": {what: result["missed"] for what, result in false.items()},
        "missed_at_most": {what: result["missed_at_most"] for what, result in false.items()},
        "rolled_back": accepted,
        "rolled_back_at_most": upper_bound(round(accepted * runs), runs),
        "found": found,
        "found_users": users,
    }


def _rolled_back(runs: Iterator[Sums]) -> tuple[float, float | None]:
    """Share of runs in which the guardrail is breached at any look, and the challenger's users that it took."""
    first = []
    for sums in runs:
        found = estimate(sums)
        width = one_sided_width(found.se, found.effective_users, alpha=error_share(ALPHA, 1, 1))
        breached = found.value - width > MARGIN
        users = np.take_along_axis(sums.users[..., 0, 0], breached.argmax(-1)[:, None], -1)[:, 0]
        first.append(np.where(breached.any(-1), users, np.nan))
    when = np.concatenate(first)
    there = np.isfinite(when)
    return float(there.mean()), float(when[there].mean()) if there.any() else None


def uneven(share: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """How often an A/A experiment is wrong; at each look the users have the weights of those seen until then."""
    looks = arrivals.looks("geometric", UNEVEN_USERS)
    judged = judge((_uneven(share, looks, rng) for _ in range(runs)), 0.0)
    return {"share": share, "runs": runs, "missed": judged["missed"], "missed_at_most": judged["missed_at_most"]}


def _uneven(share: float, looks: np.ndarray, rng: np.random.Generator) -> Sums:
    decisions = np.ceil(rng.lognormal(0.0, UNEVEN_SIGMA, looks[-1]))
    rates = rng.beta(1.0, 4.0 + np.log(decisions))
    figures = np.stack([rng.binomial(decisions.astype(np.int64), rates), decisions], -1).astype(np.float64)
    ours = rng.random(len(figures)) < share
    shape = (len(looks), 2, 1)
    sums = Sums(np.zeros(shape), np.zeros(shape), np.zeros((*shape, 2)), np.zeros((len(looks), 4, 4)))
    for look, users in enumerate(looks):
        weighted = figures[:users] * user_weights(decisions[:users])[:, None]
        for arm, there in enumerate((ours[:users], ~ours[:users])):
            rows, cell = weighted[there], slice(2 * arm, 2 * arm + 2)
            sums.users[look, arm], sums.positive[look, arm] = len(rows), (rows[:, 0] > 0).sum()
            sums.totals[look, arm], sums.products[look, cell, cell] = rows.sum(0), rows.T @ rows
    return sums

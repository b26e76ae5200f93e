"""Simulates experiments with guardrails, to measure how often verdicts are wrong and how many users they need.

Clicks and costs are independent, because the errors of several tests then add up most.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.experiment_runs import arrivals
from benchmarks.experiment_runs.judge import ALPHA
from benchmarks.experiment_runs.markets import Clicks
from mtorl.experiment.inference.statistics import confidence_sequence, estimate, one_sided_width
from mtorl.experiment.inference.verdict import ErrorShares

USERS, LOOKS = 150_000, 300
MARGIN, RATE = 0.05, 0.5
_COUNTS = (0, 1, 3)  # numbers of guardrails


def guarded(lift: float, harm: float, share: float, runs: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Simulate experiments, and yield how often each verdict is reached with 0, 1 and 3 guardrails.

    Args:
        lift: True relative lift of the challenger's clicks.
        harm: True relative increase of each guardrail's cost.
        share: Share of the users who get the challenger.
    """
    looks = np.linspace(USERS / LOOKS, USERS, LOOKS).astype(np.int64)

    def found(market: Clicks) -> tuple[np.ndarray, ...]:
        parts = [estimate(sums) for sums in arrivals.runs(market, share, looks, runs, rng)]
        return tuple(
            np.concatenate([getattr(one, name) for one in parts]) for name in ("value", "se", "effective_users")
        )

    primary = found(Clicks(lift=lift))
    others = [found(Clicks("cost", RATE, lift=harm)) for _ in range(max(_COUNTS))]
    for count in _COUNTS[int(harm > 0) :]:
        shares = ErrorShares.of(ALPHA, 1, count)
        low, high = confidence_sequence(*primary, alpha=shares.primary)
        breached, held = np.zeros_like(low, dtype=bool), np.ones_like(low, dtype=bool)
        for value, *known in others[:count]:
            breached |= value - one_sided_width(*known, alpha=shares.breached) > MARGIN * RATE
            held &= value + one_sided_width(*known, alpha=shares.held) <= MARGIN * RATE
        tokens = np.select([breached, high < 0.0, (low > 0.0) & held], [1, 2, 3])
        first = (tokens > 0).argmax(-1)
        token = np.take_along_axis(tokens, first[:, None], -1)[:, 0]
        users = np.median(np.where(token > 0, looks[first], np.inf))
        rates = {name: float((token == number).mean()) for number, name in enumerate(("guardrail", "stop", "ship"), 1)}
        what = {"lift": lift, "harm": harm, "share": share, "guardrails": count, "runs": runs}
        yield {**what, **rates, "users": float(users) if np.isfinite(users) else None}

"""Plans exploration before any arm explores: what it will cost, and how soon the log can then judge the next model.

    plan = plan_for(rows, "registry/challenger/0a1b2c3d4e5f")
    for option in plan.options:
        print(option.share, option.cost, option.told_after)

The next model will be evaluated on decisions of the serving policy (`gate.py`). These decisions contain no information
about exposures that the serving policy never makes. Exploration makes a share of the decisions at random, which adds
this information. But random decisions gain less than the policy's own. Let mu(c) be the probability that the serving
policy, including exploration, draws and exposes channel c, and t(c) the same probability for the next model. Let q(c)
be the gain of that exposure according to a model. With w = t / mu and G = mean(sum(mu q)):

    cost       G of the policy minus G of the policy with exploration, if both spend as much as the policy
    variance   mean(sum(mu (w - 1)^2 s^2)): of the difference of both values, for one decision; s^2: variance of a gain
    told after (1.96 + 0.84)^2 variance / (lift G)^2: number of decisions of held-out users with which a test at 95 %
               finds a difference of `lift` times G with a power of 80 %

The best share has the lowest total cost until the difference is found. The total includes the lift that is lost while
waiting. The variance of a gain is assumed to be proportional to its mean (as for a click), by a factor from the log. As
in `value_difference.py`, forecasts may replace the exposures with the largest weights, up to a quarter of all. The plan
ignores the errors of these forecasts, and treats the decisions of one user as independent.

Shapes: B decisions, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from mtorl.arrays import Floats
from mtorl.artifact import artifact
from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.gate import MAX_IMPOSSIBLE
from mtorl.evaluation.logged_rows import PolicyOnLog
from mtorl.evaluation.offline import paced_to
from mtorl.evaluation.value_difference import LARGEST_WEIGHTS, MAX_FORECAST
from mtorl.log.records import ExplorationScope
from mtorl.log.splits import SHARES as SPLIT
from mtorl.policy.decision import action_probabilities
from mtorl.window.window import WindowBatch

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_TOLD = (1.96 + 0.84) ** 2


@dataclass(frozen=True)
class Option:
    """A way to explore, with its cost and the information that it adds."""

    scope: ExplorationScope
    share: float
    cost: float  # gain per decision that exploring loses
    cost_share: float  # `cost` as a fraction of the gain without exploration
    impossible: float  # fraction of the next model's exposures that this option never makes
    forecast: float  # fraction of the next model's exposures that forecasts value
    # Decisions after which the log shows a difference of `lift`; None if it never does.
    told_after: float | None

    @property
    def judged(self) -> bool:
        """Whether the gate would accept a log with this exploration."""
        return self.told_after is not None and self.impossible <= MAX_IMPOSSIBLE


@dataclass(frozen=True)
class ExplorationPlan:
    """All options for exploration, and a comparison of the serving policy with the next policy."""

    decisions: int
    # 1 minus the total variation distance between both policies without exploration.
    overlap: float
    gain: float  # gain per decision of the serving policy
    lift: float  # difference to detect, as a fraction of `gain`
    options: list[Option]

    @property
    def best(self) -> Option | None:
        """The option that loses the least gain until its log shows the difference `lift`, or None."""

        def cost(option: Option) -> float:
            return (option.told_after or 0.0) * (option.cost + self.lift * self.gain)

        return min((option for option in self.options if option.judged), key=cost, default=None)


def exploration_plan(
    served: PolicyOnLog,
    target: PolicyOnLog,
    forecast: ExpectedOutcomes,
    held_out: float = 1.0,
    dispersion: float = 1.0,
    lift: float = 0.05,
    shares: Sequence[float] = SHARES,
) -> ExplorationPlan:
    """Compare ways to explore: the gain that each loses, and how soon its log can evaluate a target policy.

    Args:
        served: The serving policy, without exploration.
        held_out: Fraction of the decisions whose users are held out from the training.
        dispersion: Variance of a gain divided by its mean; 1 for rare events such as clicks.
        lift: Smallest difference that the log must show, as a fraction of the serving policy's gain.
        shares: Fractions of the decisions that are random.
    """
    exposing_BC = target.probs_BC * target.expose_BC
    alone_BC = served.probs_BC * served.expose_BC
    gain, spend = _earned(alone_BC, forecast)
    options = []
    for share, scope in _choices(shares):
        made_BC = with_exploration(served, scope, share)
        earned, spent = _earned(made_BC, forecast)
        lost = max(gain - earned * min(1.0, spend / spent if spent > 0 else 1.0), 0.0)
        weight_BC = np.full(made_BC.shape, np.inf)
        np.divide(exposing_BC, made_BC, out=weight_BC, where=made_BC > 0)
        every = max(float(exposing_BC.sum()), 1e-300)
        for largest in LARGEST_WEIGHTS:
            known_BC = (weight_BC <= largest) & (made_BC > 0)
            beyond = float((exposing_BC * ~known_BC).sum()) / every
            if beyond <= MAX_FORECAST:
                break
        deviation_BC = np.where(known_BC, weight_BC, 0.0) - 1.0
        variance = dispersion * float((made_BC * deviation_BC**2 * forecast.gain_BC).sum(axis=1).mean())
        told = _TOLD * variance / (lift * gain) ** 2 / held_out if gain > 0 and beyond < 1.0 else None
        options.append(
            Option(
                scope=scope,
                share=share,
                cost=lost,
                cost_share=lost / gain if gain > 0 else 0.0,
                impossible=float((exposing_BC * (made_BC <= 0)).sum()) / every,
                forecast=beyond,
                told_after=told,
            )
        )
    silent_B = np.minimum(1.0 - alone_BC.sum(axis=1), 1.0 - exposing_BC.sum(axis=1))
    overlap = float((np.minimum(alone_BC, exposing_BC).sum(axis=1) + silent_B).mean())
    return ExplorationPlan(len(exposing_BC), overlap, gain, lift, options)


def plan_for(rows: pd.DataFrame, model: str | Path, lift: float = 0.05) -> ExplorationPlan:
    """Plan how much an experiment's arm should explore, so that its log can later evaluate a model.

    Args:
        rows: Logged decisions of the arm, as read by `served_decisions`.
        model: Artifact folder of the policy to evaluate.
        lift: Smallest difference that the log must show, as a fraction of the arm's gain.

    Raises:
        WindowError: The model needs columns that the decisions lack.
    """
    loaded = artifact.load(Path(model))
    batch = WindowBatch.from_instances([json.loads(text) for text in rows["window"]], loaded.spec)
    forecast = loaded.forecast(batch)
    gain_BC, cost_BC = np.asarray(forecast.gain_BC), np.asarray(forecast.cost_BC)
    served = PolicyOnLog.recorded(*(np.stack(rows[name].to_list()) for name in ("channel_probs", "exposure_probs")))
    made_BC = served.probs_BC * served.expose_BC
    params = paced_to(forecast, loaded.policy, float((made_BC * cost_BC).sum(axis=1).mean()))
    expected = ExpectedOutcomes(np.maximum(gain_BC, 0.0), cost_BC)
    exposed = rows[rows["exposed"]]
    earned = float(exposed["gain"].mean()) if len(exposed) else 0.0
    dispersion = float(exposed["gain"].var(ddof=0)) / earned if earned > 0 else 1.0
    target = PolicyOnLog(*action_probabilities(forecast, params))
    return exploration_plan(served, target, expected, dict(SPLIT)["test"], dispersion, lift)


def in_words(plan: ExplorationPlan) -> list[str]:
    """Return the plan in sentences, without its table."""
    none = next(option for option in plan.options if not option.share)
    lines = [f"{plan.decisions:,} decisions; the actions of both policies overlap by {plan.overlap:.0%}"]
    if none.impossible > MAX_IMPOSSIBLE:
        lines.append(
            "without exploration, the log can't value the model: "
            f"{none.impossible:.0%} of its exposures are of a kind that the arm never makes"
        )
    elif none.told_after is not None:
        lines.append(
            f"without exploration, the log shows a difference of {plan.lift:.0%} after {none.told_after:,.0f} decisions"
        )
    best = plan.best
    if best is None:
        lines.append("no share in the table is enough: test the model on a part of the users instead")
    elif best is none:
        lines.append("no share in the table is worth its cost")
    else:
        lines.append(
            f"cheapest option: explore: {{share: {best.share:g}, scope: {best.scope}}}, for "
            f"{best.cost_share:.1%} of the gain, shows it after {best.told_after:,.0f} decisions; "
            f"{best.forecast:.0%} of the model's exposures are then valued by forecasts"
        )
    return lines


def _choices(shares: Sequence[float]) -> list[tuple[float, ExplorationScope]]:
    scopes: tuple[ExplorationScope, ...] = get_args(ExplorationScope)
    none: list[tuple[float, ExplorationScope]] = [(0.0, "both")] if 0.0 in shares else []
    return none + [(share, scope) for scope in scopes for share in shares if share > 0]


def with_exploration(served: PolicyOnLog, scope: ExplorationScope, share: float) -> Floats:
    """Return the probability (B, C) of an exposure on each channel if a `share` of decisions is randomised."""
    probs_BC, shows_BC = served.probs_BC, served.expose_BC
    chance = share / probs_BC.shape[1]
    explored_BC: Floats = {
        "channel": chance * shows_BC,
        "exposure": share * probs_BC,
        "both": np.full(probs_BC.shape, chance),
    }[scope]
    return (1.0 - share) * probs_BC * shows_BC + explored_BC


def _earned(made_BC: Floats, forecast: ExpectedOutcomes) -> tuple[float, float]:
    gain, cost = ((made_BC * of_BC).sum(axis=1).mean() for of_BC in (forecast.gain_BC, forecast.cost_BC))
    return float(gain), float(cost)

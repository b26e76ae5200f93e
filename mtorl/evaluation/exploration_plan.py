"""Cost and information of exploring, planned before any arm explores.

    plan = plan_for(rows, "registry/challenger/0a1b2c3d4e5f")
    for option in plan.options:
        print(option.share, option.cost, option.told_after)

The next model is valued on the decisions of the policy that serves (`gate.py`), which teach nothing about what it never
does. A share of decisions that is left to chance mends that, and costs what the policy would have earned instead. With
mu(c) the probability that the serving policy, exploration included, draws and exposes channel c, t(c) that of the next
model, q(c) the gain that a model expects, w = t / mu, and G = mean(sum(mu q)):

    cost       G of the policy less G of the policy with exploration, both at the spend of the policy
    variance   mean(sum(mu (w - 1)^2 s^2)) of the difference of both values, of one decision; s^2 the variance of a gain
    told after (1.96 + 0.84)^2 variance / (lift G)^2 decisions of users who are held out: then a test at 95 % finds a
               difference of `lift` times G four times of five

The best share costs least until then, with the lift that is forgone while waiting. A gain's variance is taken to grow
with its mean, as that of a click does, by a factor from the log. Exposures with the largest weights, a quarter at most,
are left to forecasts, as in `value_difference.py`; their errors are not part of the plan. Decisions of one user count
as if they were of several.

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
    """One share of exploration."""

    scope: ExplorationScope
    share: float  # of the decisions
    cost: float  # gain per decision that is lost, by the model
    cost_share: float  # of the gain without exploration
    impossible: float  # share of the next model's exposures that could never have been made
    forecast: float  # share that could so rarely have been made that it is left to forecasts, the impossible included
    told_after: float | None  # decisions until a difference of `lift` is found, other users' included; None: never

    @property
    def judged(self) -> bool:
        """Whether the gate would judge by such a log, and not refuse."""
        return self.told_after is not None and self.impossible <= MAX_IMPOSSIBLE


@dataclass(frozen=True)
class ExplorationPlan:
    """All options, and figures of both policies."""

    decisions: int
    overlap: float  # 1 - total variation distance of the policies' actions: expose a channel, or none
    gain: float  # of the serving policy, per decision, by the model
    lift: float  # the difference to find, as a share of that gain
    options: list[Option]

    @property
    def best(self) -> Option | None:
        """The option that costs least until the difference is found; None if it never is."""

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
    """Compare shares and scopes of exploration by the policy that serves, whose decisions value the target policy.

    Args:
        held_out: Share of the decisions that is of users on whom a model is valued.
        dispersion: Variance of a gain over its mean; 1 for rare events.
        lift: The difference to find, as a share of what the serving policy earns.
        shares: Of the decisions; 0 is one option, the same for every scope.
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
    """Plan exploration at an arm's decisions (`served_decisions`), to value a model.

    Args:
        model: Artifact folder of the policy to value, at the price at which it spends what the arm does.

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
    """The plan in sentences, without its table."""
    none = next(option for option in plan.options if not option.share)
    lines = [f"{plan.decisions:,} decisions; what both policies would do overlaps by {plan.overlap:.0%}"]
    if none.impossible > MAX_IMPOSSIBLE:
        lines.append(
            "as it serves now, the log can't say what the model is worth: "
            f"{none.impossible:.0%} of its exposures are of a kind that the arm never makes"
        )
    elif none.told_after is not None:
        lines.append(
            f"as it serves now, the log tells a difference of {plan.lift:.0%} after {none.told_after:,.0f} decisions"
        )
    best = plan.best
    if best is None:
        lines.append("no share in the table would do: try the model with a part of the users instead")
    elif best is none:
        lines.append("no share in the table tells more than it costs")
    else:
        lines.append(
            f"the cheapest way to tell it: explore: {{share: {best.share:g}, scope: {best.scope}}}, for "
            f"{best.cost_share:.1%} of the gain, after {best.told_after:,.0f} decisions; {best.forecast:.0%} of the "
            "model's exposures are left to forecasts then"
        )
    return lines


def _choices(shares: Sequence[float]) -> list[tuple[float, ExplorationScope]]:
    scopes: tuple[ExplorationScope, ...] = get_args(ExplorationScope)
    none: list[tuple[float, ExplorationScope]] = [(0.0, "both")] if 0.0 in shares else []
    return none + [(share, scope) for scope in scopes for share in shares if share > 0]


def with_exploration(served: PolicyOnLog, scope: ExplorationScope, share: float) -> Floats:
    """Probability of drawing and exposing each channel with exploration (`mtorl.policy.exploration`), (B, C)."""
    probs_BC, shows_BC = served.probs_BC, served.expose_BC
    chance = share / probs_BC.shape[1]
    explored_BC: Floats = {
        "channel": chance * shows_BC,
        "exposure": share * probs_BC,
        "both": np.full(probs_BC.shape, chance),
    }[scope]
    return (1.0 - share) * probs_BC * shows_BC + explored_BC


def _earned(made_BC: Floats, forecast: ExpectedOutcomes) -> tuple[float, float]:
    """Gain and cost per decision."""
    gain, cost = ((made_BC * of_BC).sum(axis=1).mean() for of_BC in (forecast.gain_BC, forecast.cost_BC))
    return float(gain), float(cost)

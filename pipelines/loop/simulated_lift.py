"""What the experiment should have found: the simulator's own value of both policies under the same budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtorl.artifact.artifact import Artifact
from mtorl.policy.decision import Forecast, decide
from mtorl.simulator.simulator import Decide, Simulator
from mtorl.window.window import WindowBatch, instance_from_history
from serving.router.flow.features import FeatureSource
from serving.router.flow.requests import DecisionRequest


def true_lift(
    simulator: Simulator, arms: Mapping[str, Decide], users: Sequence[str], rounds: int, budget: float, seed: int
) -> dict[str, float]:
    """Value both arms on the same users with expected instead of drawn outcomes.

    Args:
        simulator: The market that made the log.
        arms: What each arm decides, see `policy_of`.
        users: Users of the experiment; here each is valued under both arms.
        rounds: Opportunities per user.
        budget: Currency units per decision; exposures stop when it is spent.
        seed: Seed of the draws.

    Returns:
        true_incumbent, true_challenger, true_lift (gain per decision) and true_lift_se, its simulation error over users
        (an upper bound: both arms meet the same luck, which the sum of their variances leaves out).
    """
    values = {name: simulator.true_value(policy, list(users), rounds, seed, 3, budget) for name, policy in arms.items()}
    (incumbent, incumbent_se), (challenger, challenger_se) = values["incumbent"], values["challenger"]
    return {
        "true_incumbent": incumbent,
        "true_challenger": challenger,
        "true_lift": challenger - incumbent,
        "true_lift_se": (incumbent_se**2 + challenger_se**2) ** 0.5,
    }


def policy_of(artifact: Artifact, store: FeatureSource) -> Decide:
    """The handler's decision for many users at once, without the servers in between.

    Args:
        artifact: The policy.
        store: Where the router reads features. Only what the data set description names under `features` is taken from
            there; the simulator knows the users' histories itself.
    """
    spec = artifact.spec

    def decide_all(rows: list[dict[str, Any]], round_index: int) -> list[tuple[str | None, float]]:
        stored: list[dict[str, Any]] = [{}] * len(rows)
        if spec.features:
            requests = [DecisionRequest(row["user_id"], row["campaign_id"], row["context"], row["at"]) for row in rows]
            stored = [user.aggregates for user in store.read(requests)]
        instances = [
            instance_from_history(row["history"], row["context"], row["static"], spec, row["at"], known)
            for row, known in zip(rows, stored, strict=True)
        ]
        logits_BC, reward_BC, cost_BC = artifact.predict(WindowBatch.from_instances(instances, spec))
        gain_BC = artifact.encoder.unreward(reward_BC, cost_BC)
        decisions = decide(Forecast(logits_BC, gain_BC, cost_BC), artifact.policy, [row["u"] for row in rows])
        return [
            (spec.channels[channel] if expose else None, float(cost))
            for channel, expose, cost in zip(
                decisions.channel_B, decisions.expose_B, decisions.expected_cost_B, strict=True
            )
        ]

    return decide_all

"""Arms that need no server: what the request itself says.

    - {name: incumbent, weight: 0.5, policy: baseline}        # of an experiment file

The answer is what an arm elsewhere would give (`arm_answers.py`), from the same item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtorl.experiment.experiment import Arm
from mtorl.log.records import Baseline, FallbackReason
from serving.router.flow.arm_answers import ArmAnswer, ArmError


class NoBaseline(ArmError):
    """The user's arm is what the request says, and it does not say it."""

    reason: FallbackReason = "no_baseline"


def answer_here(arm: Arm, item: Mapping[str, Any]) -> ArmAnswer | ArmError:
    """The decision of an arm whose policy is in the experiment file.

    Args:
        arm: The arm.
        item: As `PendingDecision.item` makes it.
    """
    if "baseline" not in item:
        return NoBaseline(
            f"{arm.name} is what the request says, and this one has no baseline: send it with each request"
        )
    return answer_of(item["baseline"], item["candidates"])


def answer_of(baseline: Baseline, candidates: Sequence[str]) -> ArmAnswer:
    """What the caller's own logic would do; with a propensity of 1 it is known to do nothing else.

    Args:
        baseline: As the request says.
        candidates: Channels on offer, one of which is the baseline's.
    """
    channel, expose, propensity = baseline["channel"], baseline["expose"], baseline["propensity"]
    if propensity == 1.0:
        return certain(channel, expose, candidates)
    return ArmAnswer(channel, expose, propensity, {} if propensity is None else {channel: propensity})


def certain(channel: str, expose: bool, candidates: Sequence[str], **more: Any) -> ArmAnswer:
    """A decision that nothing was drawn for. Whether to expose does not depend on the channel.

    Args:
        channel: Which channel.
        expose: Whether to expose.
        candidates: Channels on offer.
        more: Other fields of the answer.
    """
    probs = {name: float(name == channel) for name in candidates}
    return ArmAnswer(channel, expose, 1.0, probs, dict.fromkeys(candidates, float(expose)), **more)

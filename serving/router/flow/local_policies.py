"""Answers for arms without a server: the request's baseline, and rows of the experiment file.

    - {name: incumbent, weight: 0.5, policy: baseline}
    - {name: challenger, weight: 0.5, policy: [{when: {device: phone}, channel: video}, {channel: search}]}

Item and answer are those of an arm elsewhere (`arm_answers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtorl.experiment.arm import Arm
from mtorl.experiment.rule import Row, first_fit
from mtorl.log.records import Baseline, FallbackReason
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, Identity


class NoBaseline(ArmError):
    """The user's arm is the request's baseline, and the request has none."""

    reason: FallbackReason = "no_baseline"


class NoFeatures(ArmError):
    """The policy needs features of the user, and none could be read."""

    reason: FallbackReason = "features"


def answer_here(arm: Arm, item: Mapping[str, Any]) -> ArmAnswer | ArmError:
    """The decision of an arm whose policy is in the experiment file, on a `PendingDecision.item`."""
    assert arm.policy is not None, "an arm with an endpoint is asked there"
    if arm.policy != "baseline":
        return _by_rows(arm.policy, item, {"name": "rule", "version": None, "digest": arm.rule_digest})
    if "baseline" not in item:
        return NoBaseline(
            f"{arm.name} is what the request says, and this one has no baseline: send it with each request",
            "no_baseline",
        )
    # Named, as rows are: an arm that changes from or to an endpoint gets another policy.
    return replace(answer_of(item["baseline"], item["candidates"]), model={**NOBODY, "name": "baseline"})


def _by_rows(rule: Sequence[Row], item: Mapping[str, Any], model: Identity) -> ArmAnswer | ArmError:
    values = dict(item["context"])
    if item["window"] is not None:
        values |= item["window"]["static"]
    elif missing := {name for row in rule for name in row.when} - set(values):
        return NoFeatures(
            f"the policy asks for {', '.join(sorted(missing))} of the user, and nothing could be read", "features"
        )
    row = first_fit(rule, values, item["candidates"])
    if row is None:
        offered = ", ".join(item["candidates"])
        return ArmError(f"none of {offered} is in a row that fits: give rows for all channels", "policy")
    return certain(row.channel, row.expose, item["candidates"], model=model)


def answer_of(baseline: Baseline, candidates: Sequence[str]) -> ArmAnswer:
    """The decision of the caller's own logic; with a propensity of 1 it is certain."""
    channel, expose, propensity = baseline["channel"], baseline["expose"], baseline["propensity"]
    if propensity == 1.0:
        return certain(channel, expose, candidates)
    return ArmAnswer(channel, expose, propensity, {} if propensity is None else {channel: propensity})


def certain(channel: str, expose: bool, candidates: Sequence[str], **more: Any) -> ArmAnswer:
    """A deterministic decision. Whether to expose does not depend on the channel; `more` are fields of the answer."""
    probs = {name: float(name == channel) for name in candidates}
    return ArmAnswer(channel, expose, 1.0, probs, dict.fromkeys(candidates, float(expose)), **more)

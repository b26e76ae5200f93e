"""The condition InForce after an edit of the ConfigMap by hand: routers have something else than the object says."""

from __future__ import annotations

import json

from pipelines.experiments.api import REASON
from pipelines.experiments.operator.conditions import Condition
from pipelines.experiments.resource import BY_HAND, ExperimentResource


def edited(resource: ExperimentResource, namespace: str) -> Condition | None:
    """Condition while routers read a hand-edited ConfigMap; None if they do not."""
    serving = resource.last_in_force()
    if BY_HAND in resource.status:
        words = (
            "somebody has switched it off in the ConfigMap: everybody gets the incumbent. To switch it on, give a "
            f"reason that was not given before: {switch_on(namespace, resource.name)}"
        )
    elif resource.is_edited():
        has = "can't be read, so routers go on with what they had"
        if serving is not None:
            has = f"has stage {serving.stage}, switched {'on' if serving.enabled else 'off'}"
        words = f"somebody has edited the ConfigMap, which {has}: it is written anew once the spec can be used"
    else:
        return None
    return Condition("InForce", "False", "EditedByHand", words)


def not_known_yet(resource: ExperimentResource, namespace: str) -> Condition | None:
    """Condition until routers have reported; None if the previous one holds."""
    serving = resource.last_in_force()
    if serving is not None and serving.version != resource.status.get("version"):
        return Condition("InForce", "False", "Behind", "no router has reported yet that it has it")
    return edited(resource, namespace) if resource.is_edited() else None


def switch_on(namespace: str, name: str) -> str:
    """Command that switches an experiment on again, after a switch-off in the object or the ConfigMap."""
    body = {"metadata": {"annotations": {REASON: "WHY"}}, "spec": {"enabled": True}}
    return f"kubectl -n {namespace} patch exp {name} --type merge -p '{json.dumps(body)}'"

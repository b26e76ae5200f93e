"""Builds the status of an Experiment object: conditions, figures for `kubectl get exp`, and the document for its page.

    Accepted     the spec is valid and was applied
    Progressing  the experiment continues without a person
    InForce      every router that polls has the active experiment
    Settled      the incumbent's model server serves the promoted model or, after a rollback, the previous model;
                 exists only after a promotion

A condition's `lastTransitionTime` changes only with its status.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from monitoring.experiments.document import Settled, Spend, View
from monitoring.experiments.findings import Findings
from monitoring.experiments.view import experiment_view
from mtorl.experiment.arm import ALL_ARMS
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError
from mtorl.runtime.message import Message
from pipelines import messages
from pipelines.experiments.cluster_api import REASON, ClusterApi
from pipelines.experiments.resource import BY_HAND, ExperimentResource
from serving.kubernetes_api import Object

# Kubernetes' conventions allow messages of 32,768 characters.
_LONGEST = 30_000
# Any other status of the condition InForce counts as unknown.
_IN_FORCE = {"True": True, "False": False}
FIGURES = ("users", "lift", "interval", "spend", "verdict", "reason", "code")


class Condition(NamedTuple):
    """One condition of an Experiment object."""

    type: Literal["Accepted", "Progressing", "InForce", "Settled"]
    status: Literal["True", "False", "Unknown"]
    message: Message

    @property
    def reason(self) -> str:
        """Return the reason of the condition as one word."""
        return self.message.camel_code


def with_condition(
    before: Sequence[Mapping[str, Any]], said: Condition, generation: int, now: float
) -> list[dict[str, Any]]:
    """Return an object's conditions with one of them replaced."""
    old = next((one for one in before if one["type"] == said.type), None)
    same = old is not None and old["status"] == said.status
    since = old["lastTransitionTime"] if old is not None and same else iso(now)
    made = {**said._asdict(), "message": said.message[:_LONGEST], "reason": said.reason}
    made |= {"observedGeneration": generation, "lastTransitionTime": since}
    return sorted([*(dict(one) for one in before if one["type"] != said.type), made], key=lambda one: one["type"])


def iso(at: float) -> str:
    """Format a time as Kubernetes does."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def edited(resource: ExperimentResource, namespace: str) -> Condition | None:
    """Return the condition InForce if a person has edited the ConfigMap; otherwise None."""
    serving = resource.last_in_force()
    if BY_HAND in resource.status:
        words = messages.OFF_BY_HAND(command=switch_on(namespace, resource.name))
    elif resource.is_edited():
        has = "can't be read, so routers keep their versions"
        if serving is not None:
            has = f"has stage {serving.stage}, switched {'on' if serving.enabled else 'off'}"
        words = messages.EDITED_BY_HAND(has=has)
    else:
        return None
    return Condition("InForce", "False", words)


def awaiting_routers(resource: ExperimentResource, namespace: str) -> Condition | None:
    """Build the condition InForce for a new version, or None to keep the previous condition."""
    serving = resource.last_in_force()
    if serving is not None and serving.version != resource.status.get("version"):
        return Condition("InForce", "False", messages.BEHIND(routers="any router"))
    return edited(resource, namespace) if resource.is_edited() else None


def switch_on(namespace: str, name: str) -> str:
    """Build the command that switches an experiment on again after a kill."""
    body = {"metadata": {"annotations": {REASON: "WHY"}}, "spec": {"enabled": True}}
    return f"kubectl -n {namespace} patch exp {name} --type merge -p '{json.dumps(body)}'"


def figures_of(verdict: Mapping[str, Any], spend: Sequence[Spend]) -> dict[str, Any]:
    """Build the fields in `FIGURES`, which `kubectl get exp` shows."""
    lift, relative, (low, high) = verdict["lift"], verdict["relative_lift"], verdict["lift_ci"]
    arms = verdict["arms"].values()
    of_incumbent = "" if relative is None else f" ({relative:+.1%})"
    totals = [one for one in spend if (one["arm"], one["channel"], one["period"]) == (ALL_ARMS, "*", "total")]
    of_all = [one for one in totals if one["campaign"] == "*"] or totals
    # Without a total budget, show the sum of the costs in the log.
    spent = [one["spent"] for one in of_all] or [arm["totals"]["cost"] for arm in arms]
    return {
        "users": verdict["users"],
        "lift": None if lift is None else f"{lift:+.3g}{of_incumbent}",
        "interval": None if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]",
        "spend": f"{sum(spent):.2f}",
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
        "code": verdict["code"],
    }


def views_of(
    api: ClusterApi, objects: Sequence[Object], found: Callable[[str, str], Findings | None], now: float
) -> list[View]:
    """Build the documents of all experiments that are valid or active.

    Args:
        found: Function that returns the newest findings on an experiment, given its name and salt.
    """
    config_map = api.in_force()
    made = []
    for one in objects:
        resource = ExperimentResource(api, config_map, one)
        try:
            events = resource.events()
            experiment: Experiment | None = resource.written()
        except HistoryError:
            continue
        except ExperimentError:
            experiment = resource.last_in_force()
        if experiment is not None:
            conditions = {said["type"]: said for said in resource.status.get("conditions") or ()}
            findings = replace(
                found(resource.name, experiment.salt) or Findings(),
                in_force=BY_HAND in resource.status or _IN_FORCE.get(conditions.get("InForce", {}).get("status")),
                settled=_settled(conditions),
                problem=_problem(conditions),
                commands=_commands(resource, api.namespace),
                by_hand=False,
            )
            made.append(experiment_view(experiment, events, findings, now))
    return made


def _settled(conditions: Mapping[str, Mapping[str, Any]]) -> Settled | None:
    said = conditions.get("Settled")
    if said is None:
        return None
    return Settled(done=said["status"] == "True", reason=str(said["reason"]), words=str(said["message"]))


def _problem(conditions: Mapping[str, Mapping[str, Any]]) -> str | None:
    accepted, progressing = (conditions.get(kind, {}) for kind in ("Accepted", "Progressing"))
    if accepted.get("status") == "False":
        return str(accepted["message"])
    return str(progressing["message"]) if progressing.get("reason") == "LogUnreadable" else None


def _commands(resource: ExperimentResource, namespace: str) -> dict[str, str]:
    stages = (resource.spec.get("ramp") or {}).get("stages") or [{}]

    def patch(**fields: Any) -> str:
        return f"kubectl -n {namespace} patch exp {resource.name} --type merge -p '{json.dumps({'spec': fields})}'"

    moves = {
        "start": stages[0].get("stage", "shadow"),
        "ramp": "STAGE",
        "promote": "promoted",
        "rollback": "rolled back",
        "stop": "stopped",
    }
    return {
        **{action: patch(move={"to": to, "reason": "WHY"}) for action, to in moves.items()},
        "resume": switch_on(namespace, resource.name),
        "run": f"kubectl -n {namespace} get deployment mtorl-operator",
    }

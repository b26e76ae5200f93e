"""Documents for the operator's page and gauges, from each object and the last look at its log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from monitoring.experiments.document import Settled, View
from monitoring.experiments.look import Known
from monitoring.experiments.view import experiment_view
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError
from pipelines.experiments.cluster_api import ClusterApi
from pipelines.experiments.operator.status import switch_on
from pipelines.experiments.resource import BY_HAND, ExperimentResource
from serving.kubernetes_api import Object

_IN_FORCE = {"True": True, "False": False}  # else it is not known


def views_of(
    api: ClusterApi, objects: Sequence[Object], found: Mapping[tuple[str, str], Known], now: float
) -> list[View]:
    """A document of each experiment that was ever usable; `found` is the last look at logs, by name and salt."""
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
            known = replace(
                found.get((resource.name, experiment.salt), Known()),
                in_force=BY_HAND in resource.status or _IN_FORCE.get(conditions.get("InForce", {}).get("status")),
                settled=_settled(conditions),
                problem=_problem(conditions),
                commands=_commands(resource, api.namespace),
                by_hand=False,
            )
            made.append(experiment_view(experiment, events, known, now))
    return made


def _settled(conditions: Mapping[str, Mapping[str, Any]]) -> Settled | None:
    """Settling of a promotion or its rollback; None: there is none."""
    said = conditions.get("Settled")
    if said is None:
        return None
    return Settled(done=said["status"] == "True", reason=str(said["reason"]), words=str(said["message"]))


def _problem(conditions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why spec or log can't be used; None: they can."""
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

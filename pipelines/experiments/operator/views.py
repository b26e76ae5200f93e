"""What the operator's page and gauges say of each experiment: its object, and what was found in the log last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.experiments.document import View
from monitoring.experiments.view import Known, experiment_view
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError
from pipelines.experiments.operator.look import Found
from pipelines.experiments.resource import Api, ExperimentResource, Object, held_by, owner_of


def views_of(api: Api, objects: Sequence[Object], found: Mapping[str, Found], namespace: str, now: float) -> list[View]:
    """A document of each experiment; one that has never been usable has none.

    Args:
        api: Of the API server.
        objects: The experiments.
        found: What their log said last, by name.
        namespace: Where they are, for the commands that are shown.
        now: Seconds since 1970.
    """
    config_map = api.in_force()
    made = []
    for one in objects:
        resource = ExperimentResource(api, config_map, one)
        serving = held_by(config_map) if config_map is not None and owner_of(config_map) == resource.name else None
        try:
            experiment, events = _definition(resource, serving), resource.events()
        except HistoryError:
            continue
        if experiment is None:
            continue
        looked = found.get(resource.name)
        known = Known(
            in_force=said(one, "InForce")[0] != "False", problem=_problem(one), commands=_commands(one, namespace)
        )
        if looked is not None:
            known = Known(
                verdict=looked.verdict,
                evidence=looked.evidence,
                traffic=looked.traffic,
                spend=looked.spend,
                in_force=known.in_force,
                problem=known.problem,
                commands=known.commands,
            )
        made.append(experiment_view(experiment, events, known, now))
    return made


def _definition(resource: ExperimentResource, serving: Experiment | None) -> Experiment | None:
    try:
        return resource.definition()
    except ExperimentError:
        return serving


def said(found: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Status and message of a condition; empty, if nobody has said it yet."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next(((one["status"], one["message"]) for one in conditions if one["type"] == kind), ("", ""))


def _problem(found: Mapping[str, Any]) -> str | None:
    for kind, reason in (("Accepted", ""), ("Progressing", "LogUnreadable")):
        for one in (found.get("status") or {}).get("conditions") or ():
            if one["type"] == kind and one["status"] == "False" and reason in ("", one["reason"]):
                return str(one["message"])
    return None


def _commands(found: Mapping[str, Any], namespace: str) -> dict[str, str]:
    """What to type, by action."""
    name, ramp = found["metadata"]["name"], found["spec"].get("ramp") or {}
    first = (ramp.get("stages") or [{}])[0].get("stage", "shadow")

    def patch(**fields: Any) -> str:
        return f"kubectl -n {namespace} patch exp {name} --type merge -p '{json.dumps({'spec': fields})}'"

    def move(to: str) -> str:
        return patch(move={"to": to, "reason": "WHY"})

    moves = {"start": first, "ramp": "STAGE", "promote": "promoted", "rollback": "rolled back", "stop": "stopped"}
    return {
        **{action: move(to) for action, to in moves.items()},
        "resume": patch(enabled=True),
        "run": f"kubectl -n {namespace} get deployment mtorl-operator",
    }

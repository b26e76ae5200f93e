"""Generates the definition of the Kubernetes object `Experiment` from the model of the experiment file.

Kubernetes requires a *structural* schema, without references and alternatives, so fields of several types accept any
value.
"""

from collections.abc import Mapping
from typing import Any

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event
from mtorl.experiment.metrics import GAINS, KNOWN, METRICS, NO_GAINS
from mtorl.experiment.stage_machine import FIXED
from pipelines.experiments.cluster_api import GROUP, KIND, PLURAL, VERSION
from pipelines.experiments.moves import MoveRequest
from pipelines.experiments.resource import BY_HAND

_MOST = 50
"""Largest number of arms, budgets or metrics. Real files have far fewer. Kubernetes needs a maximum to bound the cost
of evaluating the CRD's rules."""
_TIME = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}
_GENERATION = {"type": "integer", "format": "int64", "description": "Generation of the spec that this refers to."}


def definition() -> dict[str, Any]:
    """Build the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {
                "app.kubernetes.io/name": "mtorl-experiments",
                "app.kubernetes.io/instance": "mtorl",
                "app.kubernetes.io/component": "crd",
                "app.kubernetes.io/part-of": "mtorl-kubeflow",
                "app.kubernetes.io/managed-by": "kustomize",
            },
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["exp"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _columns() -> list[dict[str, Any]]:
    condition = '.status.conditions[?(@.type=="{}")].{}'
    columns = (
        ("Stage", "string", ".status.phase"),
        ("Enabled", "boolean", ".status.enabled"),
        ("Users", "integer", ".status.users"),
        *((name, "string", f".status.{name.lower()}") for name in ("Lift", "Interval", "Spend", "Verdict")),
        ("In force", "string", condition.format("InForce", "status")),
        ("Spec", "string", condition.format("Accepted", "reason")),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    made: list[dict[str, Any]] = [dict(zip(("name", "type", "jsonPath"), one, strict=True)) for one in columns]
    return [*made, {"name": "Reason", "type": "string", "jsonPath": ".status.reason", "priority": 1}]


def _schema() -> dict[str, Any]:
    spec = structural(Experiment.model_json_schema())
    spec["description"] = "An experiment file without the name, because the object has one: docs/experiment-file.md."
    del spec["properties"]["name"]
    spec["properties"]["move"] = structural(MoveRequest.model_json_schema())
    spec["required"] = [name for name in spec["required"] if name != "name"]
    # A manifest without `enabled` never resets the kill switch.
    spec["properties"]["enabled"]["default"] = True
    _name_metrics(spec["properties"]["metrics"]["properties"])
    spec["x-kubernetes-validations"] = [
        {"rule": "has(self.ramp) || has(self.stage)", "message": "give a ramp, or else a stage"},
        {
            "rule": f"self.arms.exists(arm, arm.name == '{INCUMBENT}')",
            "message": f"one of the arms is called {INCUMBENT}",
        },
        {
            "rule": "[self.arms.map(arm, arm.weight).sum()].all(sum, sum > 0.999999 && sum < 1.000001)",
            "message": "the weights of the arms must add up to 1",
        },
    ]
    return {
        "type": "object",
        "description": "A/B test of advertising policies: its definition (spec) and its progress (status).",
        "required": ["spec"],
        "properties": {
            "apiVersion": _TEXT,
            "kind": _TEXT,
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status(),
        },
        "x-kubernetes-validations": [_fixed(name, name in spec["required"]) for name in FIXED] + [_fixed_arms()],
    }


def _name_metrics(fields: dict[str, Any]) -> None:
    forbidden = ", ".join(f"'{name}'" for name in NO_GAINS)
    fields["primary"]["x-kubernetes-validations"] = [
        {
            "rule": f"self.matches('^({GAINS})$') && !(self in [{forbidden}])",
            "message": "the primary metric must be gain_per_decision, an outcome per decision such as "
            "click_per_decision, or one of these per cost, such as gain_per_cost",
        }
    ]
    known = {
        "rule": f"self.matches('^({KNOWN})$')",
        "message": f"a metric must be {', '.join(METRICS)}, or an outcome per decision or per another outcome, such as "
        "cost_per_click",
    }
    for named in (fields["secondary"]["items"], fields["guardrails"]["items"]["properties"]["name"]):
        named["x-kubernetes-validations"] = [known]


def _fixed(name: str, required: bool) -> dict[str, str]:
    new, old = f"self.spec.{name}", f"oldSelf.spec.{name}"
    same = f"{new} == {old}"
    if not required:
        same = f"has({new}) == has({old}) && (!has({new}) || {same})"
    return _once_begun(f"({same})", name)


def _fixed_arms() -> dict[str, str]:
    same = " && ".join(
        f"{one}.spec.arms.all(a, {other}.spec.arms.exists(b, b.name == a.name))"
        for one, other in (("self", "oldSelf"), ("oldSelf", "self"))
    )
    return _once_begun(f"({same})", "the names of the arms")


def _once_begun(rule: str, what: str) -> dict[str, str]:
    draft = "!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase == 'draft'"
    return {
        "rule": f"{draft} || self.spec.salt != oldSelf.spec.salt || {rule}",
        "message": f"{what} may not change after the experiment has begun: set a new salt to start another one",
    }


def _status() -> dict[str, Any]:
    condition = {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {**_TEXT, "description": "Accepted, InForce, Progressing, Settled ... (docs/cluster.md)."},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Its status."},
            "observedGeneration": _GENERATION,
            "lastTransitionTime": {**_TIME, "description": "Time of the last change of the status."},
            "reason": {**_TEXT, "description": "Reason as one word, for programs."},
            "message": {**_TEXT, "description": "Reason as a sentence, for people."},
        },
    }
    conditions = {
        "type": "array",
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "description": "Current conditions.",
    }
    texts = {
        "phase": "draft, a stage, promoted, stopped or rolled back.",
        "lift": "Lift of the challenger over the incumbent, in the metric's unit and relative.",
        "interval": "Interval of the lift in the metric's unit, valid at every look.",
        "spend": "Spend of all arms in currency units, including spend outside the verdict.",
        "verdict": "ship, stop, futile, inconclusive, guardrail or srm.",
        "reason": "Reason of the verdict, in words.",
        "code": "Code of that reason, for programs.",
        "version": "Version of the active experiment, which routers report in their polls.",
        "move": "Digest of the newest move in the spec that was handled.",
        BY_HAND: "While switched off in the ConfigMap: the object's reason annotation at the time of the switch.",
    }
    return {
        "type": "object",
        "properties": {
            "observedGeneration": _GENERATION,
            **{name: {**_TEXT, "description": text} for name, text in texts.items()},
            "since": {**_TIME, "description": "Time from which the duration of this stage counts."},
            "enabled": {"type": "boolean", "description": "Whether the active experiment is switched on."},
            "users": {"type": "integer", "description": "Distinct users of all arms that count in the verdict."},
            "conditions": conditions,
            "history": {
                "type": "array",
                "description": "All events of the experiment. The history is append-only.",
                "items": structural(Event.model_json_schema()),
            },
        },
    }


def structural(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the JSON schema of a pydantic model to a structural schema for Kubernetes."""
    return _structural(schema, schema.get("$defs", {}))


def _structural(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        referred = defs[schema["$ref"].rpartition("/")[2]]
        return _structural({**referred, **{key: value for key, value in schema.items() if key != "$ref"}}, defs)
    described = {"description": schema["description"]} if "description" in schema else {}
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        made = {**_structural(kinds[0], defs), **described, "nullable": True}
        # The API server does not accept null as a value of an enum.
        if made.pop("enum", None):
            made["maxLength"] = 1_000
        return made
    if kinds or "oneOf" in schema or not schema.get("type"):
        return {**described, "x-kubernetes-preserve-unknown-fields": True}
    made = {"type": schema["type"], **described}
    limits = ("enum", "format", "minimum", "maximum", "minItems", "maxItems")
    made |= {key: schema[key] for key in limits if key in schema}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    for key in ("Minimum", "Maximum"):
        if f"exclusive{key}" in schema:
            made |= {key.lower(): schema[f"exclusive{key}"], f"exclusive{key}": True}
    if schema["type"] == "array":
        made |= {f"{end}Items": schema[f"{end}Length"] for end in ("min", "max") if f"{end}Length" in schema}
        made.setdefault("maxItems", _MOST)
        made["items"] = _structural(schema["items"] if "items" in schema else schema["prefixItems"][0], defs)
    elif schema["type"] == "string" and "enum" not in made and "format" not in made:
        made["maxLength"] = 1_000
    elif schema["type"] == "object" and "properties" in schema:
        made["properties"] = {name: _structural(field, defs) for name, field in schema["properties"].items()}
        made |= {"required": list(schema["required"])} if schema.get("required") else {}
    elif isinstance(schema.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _structural(schema["additionalProperties"], defs)
        made |= {"maxProperties": schema["maxProperties"]} if "maxProperties" in schema else {}
    elif schema["type"] == "object":
        made["x-kubernetes-preserve-unknown-fields"] = True
    return made

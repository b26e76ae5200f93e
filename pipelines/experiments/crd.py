"""The custom resource `Experiment`: its definition for Kubernetes, generated from the model of the experiment file.

    definition()        # manifests/crds/experiments.yaml, written by scripts/write_schemas.py

`spec` is an experiment file without its name, which is the object's, and with `move`. Kubernetes wants a *structural*
schema: no references, no alternatives, null by `nullable`. Where a field may be of several kinds, any value is let in,
and the operator reports what is wrong. The model sets defaults, not the API server.
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
"""Arms, budgets or metrics of an experiment: a bound that no file meets, without which a rule might cost too much."""
_TIME = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}
_GENERATION = {"type": "integer", "format": "int64", "description": "Of the spec that this is about."}


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
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
    spec["description"] = "An experiment file without its name, which is the object's: docs/experiment-file.md."
    del spec["properties"]["name"]
    spec["properties"]["move"] = structural(MoveRequest.model_json_schema())
    spec["required"] = [name for name in spec["required"] if name != "name"]
    spec["properties"]["enabled"]["default"] = True  # what git does not name, its next apply leaves as it is
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
        "description": "A/B test of advertising policies: what it is (spec), and how it goes (status).",
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
    """Refuse names that no data set can give a meaning; the operator knows which outcomes this one has."""
    forbidden = ", ".join(f"'{name}'" for name in NO_GAINS)
    fields["primary"]["x-kubernetes-validations"] = [
        {
            "rule": f"self.matches('^({GAINS})$') && !(self in [{forbidden}])",
            "message": "the primary metric is gain_per_decision, that of one outcome such as click_per_decision, or "
            "either of them per cost, such as gain_per_cost",
        }
    ]
    known = {
        "rule": f"self.matches('^({KNOWN})$')",
        "message": f"a metric is {', '.join(METRICS)}, or an outcome per decision or per another outcome, such as "
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
        "message": f"{what} may not change once it has begun: give it a new salt for another try",
    }


def _status() -> dict[str, Any]:
    condition = {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {**_TEXT, "description": "Accepted, InForce, Progressing, Settled ... (docs/cluster.md)."},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
            "observedGeneration": _GENERATION,
            "lastTransitionTime": {**_TIME, "description": "When its status changed last."},
            "reason": {**_TEXT, "description": "Why, in one word for programs."},
            "message": {**_TEXT, "description": "Why, in a sentence for people."},
        },
    }
    conditions = {
        "type": "array",
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "description": "What holds of it now.",
    }
    texts = {
        "phase": "draft, a stage, promoted, stopped or rolled back.",
        "lift": "Of the challenger over the incumbent, in the metric's own unit, and relative.",
        "interval": "Of the lift in the metric's own unit, valid however often people look.",
        "spend": "Of all arms together, whether it counts in the verdict or not, currency units.",
        "verdict": "ship, stop, futile, inconclusive, guardrail or srm.",
        "reason": "Of the verdict, in words.",
        "code": "Of that reason, for programs.",
        "version": "Of what is in force: what routers say that they have.",
        "move": "The newest move that a person requested, and how far it was handled.",
        BY_HAND: "While somebody has switched it off in the ConfigMap: the reason that stood in the object then.",
    }
    return {
        "type": "object",
        "properties": {
            "observedGeneration": _GENERATION,
            **{name: {**_TEXT, "description": text} for name, text in texts.items()},
            "since": {**_TIME, "description": "When its time at this stage began to count."},
            "enabled": {"type": "boolean", "description": "Whether it is switched on in what routers read."},
            "users": {"type": "integer", "description": "Who count in the verdict, of all arms together, each once."},
            "conditions": conditions,
            "history": {
                "type": "array",
                "description": "All that has happened to it. Nothing is ever changed or removed.",
                "items": structural(Event.model_json_schema()),
            },
        },
    }


def structural(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A pydantic model's JSON schema as Kubernetes wants it."""
    return _structural(schema, schema.get("$defs", {}))


def _structural(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        referred = defs[schema["$ref"].rpartition("/")[2]]
        return _structural({**referred, **{key: value for key, value in schema.items() if key != "$ref"}}, defs)
    described = {"description": schema["description"]} if "description" in schema else {}
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        made = {**_structural(kinds[0], defs), **described, "nullable": True}
        if made.pop("enum", None):  # the API server's can't hold null
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

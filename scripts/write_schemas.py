"""Writes the JSON schemas of configuration files, records and requests, and the CRD of experiments.

Run this script after changing a model.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import yaml
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "schemas"
CRD = ROOT / "manifests" / "crds" / "experiments.yaml"
MODELS = {
    "dataset": "mtorl.log.dataset:DatasetSpec",
    "experiment": "mtorl.experiment.experiment:Experiment",
    "lineage": "mtorl.artifact.lineage:Lineage",
    "pipeline-schedule": "pipelines.cluster.schedule:Schedule",
    "router-settings": "serving.router.ops.settings:RouterSettings",
    "decision-request": "serving.router.flow.requests:DecisionBody",
    "outcome-report": "serving.router.flow.requests:OutcomeBody",
    "drill": "serving.router.ops.drills:Drill",
    "decision-record": "mtorl.log.records:DecisionRecord",
    "outcome-record": "mtorl.log.records:OutcomeRecord",
    "shadow-record": "mtorl.log.records:ShadowRecord",
    "window-record": "mtorl.log.records:WindowRecord",
}
"""Pydantic model or typed dictionary, as module:class, by the schema's file name."""


OPENAPI = "openapi"
NAMES = (*MODELS, OPENAPI)


def schema_text(name: str) -> str:
    """Build the JSON schema of a model, or the OpenAPI document of the router."""
    if name == OPENAPI:
        from serving.router.http.openapi import generic_document

        return json.dumps(generic_document(), indent=2) + "\n"
    module, _, model = MODELS[name].partition(":")
    schema = TypeAdapter(getattr(import_module(module), model)).json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def crd_text() -> str:
    """Build the custom resource definition (CRD) of experiments as YAML."""
    from pipelines.experiments.crd import definition

    class Plain(yaml.SafeDumper):
        """Writes YAML without anchors and aliases, so that the file stays readable."""

        def ignore_aliases(self, _: object) -> bool:
            return True

    return "# Written by scripts/write_schemas.py, of the model of the experiment file.\n" + yaml.dump(
        definition(), Dumper=Plain, sort_keys=False, width=120, allow_unicode=True
    )


def main() -> None:
    """Write all schemas, and delete the schemas of models that no longer exist."""
    CRD.write_text(crd_text(), encoding="utf-8")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.stem not in NAMES:
            path.unlink()
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

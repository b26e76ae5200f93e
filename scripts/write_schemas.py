"""Write the JSON schemas of what people write, and of what the router writes and answers: docs/schemas/*.json.

The definition of the custom resource `Experiment` is made of the same model: manifests/crds/experiments.yaml.

    python scripts/write_schemas.py            after a model has changed; a test fails until then

An editor that reads `# yaml-language-server: $schema=docs/schemas/experiment.json` on top of a file completes and
checks it. A new model is one line in MODELS.
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
"""File name and, as module:class, the pydantic model or typed dictionary that it describes."""


OPENAPI = "openapi"
NAMES = (*MODELS, OPENAPI)


def schema_text(name: str) -> str:
    """The schema of a model, or the router's OpenAPI document."""
    if name == OPENAPI:
        from serving.router.http.openapi import generic_document

        return json.dumps(generic_document(), indent=2) + "\n"
    module, _, model = MODELS[name].partition(":")
    schema = TypeAdapter(getattr(import_module(module), model)).json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def crd_text() -> str:
    """The definition of the custom resource."""
    from pipelines.experiments.crd import definition

    class Plain(yaml.SafeDumper):
        """Writes YAML without anchors, since kubectl and people read the file."""

        def ignore_aliases(self, _: object) -> bool:
            return True

    return "# Written by scripts/write_schemas.py, of the model of the experiment file.\n" + yaml.dump(
        definition(), Dumper=Plain, sort_keys=False, width=120, allow_unicode=True
    )


def main() -> None:
    """Write every schema, and remove those of models that are gone."""
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

"""Writes components/NAME/README.md, a page about each pipeline component, from the code of the component.

Run this script after changing a component.
"""

import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "components"
SHARED = {
    "source": 'Path of the raw log or of a folder of `mtorl data build`, or "simulator".',
    "dataset": "Name of a built-in data set, or path of a description.",
    "bad_rows": '"fail" or "quarantine".',
    "users": "Users to simulate (0: 6,000), or the maximum number to keep from a real log (0: all).",
    "seed": "Seed of all random numbers.",
    "epochs": "Maximum epochs; early stopping may end training sooner.",
    "budget_share": "Budget as a share of the cost of always exposing; it sets the price of the budget.",
    "settings": 'Text of the settings.yaml that a search has chosen (`mtorl.fitting.settings`); "" for the defaults.',
    "code_version": "Version of the library; part of the cache key.",
    "content": "Output of the step `fingerprint`.",
    "own_decisions": "Lake, a folder or URI, whose decisions are added to the log; empty for none.",
    "decisions": "Output of the step `compact`; empty for no decisions.",
    "lake": "Folder or URI of the lake to which routers upload their logs; empty if no router serves.",
    "registry": "Root folder of the registry.",
    "history": 'Folder with the records of all trainings; "" for none.',
    "log": "Folder written by ingest: touchpoints.parquet and dataset.yaml.",
    "quarantine": "CSV of the rows that fail validation; empty if there are none.",
    "windows": "Folder written by build_features: manifest.json, steps/ and dataset.yaml.",
    "definitions": "Feast repository written by build_features, without its sources.",
    "challenger": "Artifact folder of the challenger.",
    "incumbent": "Artifact folder of the incumbent; without an artifact, a folder with its name.",
    "model_store": "Folder written by package: incumbent.mar and challenger.mar.",
    "evaluation": "JSON with all figures, written by evaluate.",
    "gate": "JSON of the gate's decision, written by gate.",
    "min_lift": "Gain per opportunity that the lower bound of challenger minus incumbent must exceed.",
    "margin": "Most that the lower bound may be below 0 if the incumbent is our last model, as a share of its value.",
    "since": "Start of the period (ISO time), inclusive; empty for no bound.",
    "until": "End of the period (ISO time), exclusive; empty for no bound.",
    "pipeline": "Name of the pipeline.",
    "run_name": "Name of the run.",
    "run_id": "Id of the run.",
}
"""Descriptions of inputs and outputs that several components share. A component's docstring takes precedence."""


def names() -> list[str]:
    """List the names of the folders of all components."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def page(name: str) -> str:
    """Build the page of a component. `name` is the name of its folder and of its function."""
    import docstring_parser

    from components.component import traits_of

    module = importlib.import_module(f"components.{name}.component")
    component = getattr(module, name)
    said = docstring_parser.parse(component.python_func.__doc__ or "")
    words = SHARED | {one.arg_name: " ".join((one.description or "").split()) for one in said.params}
    spec, traits = component.component_spec, traits_of(component.name)
    lines = [f"# {component.name}", "", (module.__doc__ or "").strip(), "", said.short_description or "", ""]
    if said.long_description:
        lines += [" ".join(said.long_description.split()), ""]
    lines += ["| input | type | meaning |", "|---|---|---|"]
    lines += [f"| `{given}` | {_type(it)} | {words.get(given, '')} |" for given, it in (spec.inputs or {}).items()]
    lines += ["", "| output | type | meaning |", "|---|---|---|"]
    gives = [
        f"| {'returned value' if given == 'Output' else f'`{given}`'} | {_type(it)} | {words.get(given, '')} |"
        for given, it in (spec.outputs or {}).items()
    ]
    lines += gives or ["| none | | |"]
    lines += ["", *_facts(traits), "", f"Used by {', '.join(users_of(component.name)) or 'no pipeline'}.", ""]
    lines += ["*Written by `scripts/write_component_pages.py`; do not edit.*", ""]
    return "\n".join(lines)


def _type(it: Any) -> str:
    known = {"String": "text", "Integer": "whole number", "Float": "number", "Double": "number", "Boolean": "yes or no"}
    kind = it.type.split("@")[0].removeprefix("system.")
    return known.get(kind, kind)


def _facts(traits: Any) -> Iterator[str]:
    yield (
        "**Cached**: with the same inputs, a run reuses the outputs of an earlier run."
        if traits.cached
        else "**Not cached**: the step writes outside its outputs, or reads data that may change with the same inputs."
    )
    if traits.trains:
        yield "**Trains**: the step gets the accelerator and more time; a retry continues from its checkpoint."
    elif traits.reads_log:
        yield "**Reads the whole log**: the step gets more memory."


def users_of(step: str) -> list[str]:
    """List the pipelines that contain a step."""
    return [f"`{name}`" for name, steps in _steps_by_pipeline().items() if step in steps]


@cache
def _steps_by_pipeline() -> dict[str, set[str]]:
    from google.protobuf.json_format import MessageToDict

    from pipelines.on_volume import PIPELINES
    from pipelines.profile import CLUSTER

    built = [build(CLUSTER) for build in PIPELINES.values()]
    executors = {one.name: MessageToDict(one.pipeline_spec)["deploymentSpec"]["executors"] for one in built}
    return {name: {step.removeprefix("exec-") for step in steps} for name, steps in executors.items()}


def main() -> None:
    """Write the pages of all components."""
    for name in names():
        (FOLDER / name / "README.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

"""Writes docs/conformance.md, which shows which cluster features were tested, on what kind of cluster, and when.

    make cluster-test                                      runs the tests, then this script on their results
    python scripts/write_conformance.py RESULTS.xml        adds a test run (JUnit XML) on the cluster of $KUBECONFIG
    python scripts/write_conformance.py                    rewrites the page after a change of the list of features

The newest results are in docs/conformance.json.
"""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conformance.md"
RECORD = ROOT / "docs" / "conformance.json"
FEATURES = ROOT / "tests" / "cluster" / "features.yaml"
SERVER, NODE = "API server", "node"
ADMITTED = "test_admission.py::test_a_target_is_admitted_whole"
HEAD = """# Conformance: features tested on a cluster

    KUBECONFIG=... make cluster-test          # runs tests/cluster and updates this page

- **API server**: the newest run without a node that runs containers. *Admitted*: the server accepted the objects, but
  no test used them. *Ran*: a test used them, with operator and routers as local processes.
- **Node**: the newest run on nodes that run the images. *No recorded run*: no run since this page began, on 2026-12-01.
  *No test*: no test covers the feature.

A cell shows the date of its oldest result and the version of Kubernetes.

*Written by `scripts/write_conformance.py`; do not edit.*

| feature | API server | node | tests |
|---|---|---|---|
"""
Results = dict[str, dict[str, dict[str, str]]]


def results(junit: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield the name, the parameters and the success of each test that was not skipped."""
    for case in ET.parse(junit).iter("testcase"):
        if case.find("skipped") is None:
            file = case.get("classname", "").rpartition(".")[2]
            name, _, parameters = case.get("name", "").partition("[")
            yield f"{file}.py::{name}", parameters.rstrip("]"), not {"failure", "error"} & {part.tag for part in case}


def add(record: Results, found: Iterable[tuple[str, str, bool]], where: str, when: dict[str, str]) -> None:
    """Add a test run to `record`, which has the newest result of each test and of each kind of object."""
    passed: dict[str, bool] = {}
    for test, parameters, good in found:
        targets = (f"manifests/{parameters}", "manifests/foundation/dev") if test == ADMITTED else ()
        for name in {test}.union(*map(kinds_of, targets)):
            passed[name] = passed.get(name, True) and good
    for name, good in passed.items():
        record.setdefault(name, {})[where] = {"result": "passed" if good else "failed", **when}
    sources = {path.name: path.read_text(encoding="utf-8") for path in FEATURES.parent.glob("test_*.py")}
    for file, _, test in (name.partition("::") for name in list(record)):
        if test and f"def {test}(" not in sources.get(file, ""):
            del record[f"{file}::{test}"]  # the test was removed or renamed


@cache
def kinds_of(folder: str) -> set[str]:
    """Return the kinds of the objects that kubectl renders from a folder of manifests."""
    rendered = subprocess.check_output(["kubectl", "kustomize", str(ROOT / folder)])
    return {made["kind"] for made in yaml.load_all(rendered, yaml.CSafeLoader)}


def cluster() -> tuple[str, dict[str, str]]:
    """Return the results column, version and date for the current cluster ($KUBECONFIG)."""
    said = [("version",), ("get", "nodes")]
    version, nodes = (json.loads(subprocess.check_output(["kubectl", *words, "-o", "json"])) for words in said)
    real = [n for n in nodes["items"] if "kwok.x-k8s.io/node" not in n["metadata"].get("annotations", {})]
    number = version["serverVersion"]["gitVersion"].removeprefix("v")
    return (NODE if real else SERVER), {"kubernetes": number, "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def page(record: Results | None = None) -> str:
    """Build the text of the page from the list of features and the recorded results."""
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if record is None else record
    features = yaml.safe_load(FEATURES.read_text(encoding="utf-8"))
    named = {test.partition("::")[0] for feature in features for test in feature.get("tests", ())}
    for path in sorted(FEATURES.parent.glob("test_*.py")):
        if path.name not in named:
            features.append(
                {"feature": path.read_text(encoding="utf-8").splitlines()[0].strip('".'), "tests": [path.name]}
            )
    return HEAD + "".join(_row(feature, kept) for feature in features)


def _row(feature: dict[str, Any], record: Results) -> str:
    kinds, wanted = feature.get("kinds", []), feature.get("tests", [])
    names = [name for test in wanted for name in record if name == test or name.startswith(f"{test}::")]
    cells = []
    without = "no recorded run" if wanted else "no test"
    for where in (SERVER, NODE):
        ran, admitted = (
            [(name, record[name][where]) for name in tried if where in record.get(name, {})] for tried in (names, kinds)
        )
        cell = f"{'ran' if ran else 'admitted'} " if ran or admitted else without
        cell += min((f"{one['date']}, {one['kubernetes']}" for _, one in ran or admitted), default="")
        failed = [f"`{name}` **failed**" for name, one in ran + admitted if one["result"] != "passed"]
        cells.append("; ".join([cell, *failed]))
    files = dict.fromkeys(f"`{test.partition('::')[0]}`" for test in wanted)
    title = feature["feature"] + (f" ({', '.join(kinds)})" if kinds else "")
    return f"| {title} | {cells[0]} | {cells[1]} | {', '.join(files) or 'none'} |\n"


if __name__ == "__main__":
    recorded: Results = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if found := [one for path in sys.argv[1:] for one in results(Path(path))]:
        add(recorded, found, *cluster())
    RECORD.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(recorded), encoding="utf-8")

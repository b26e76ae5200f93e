"""Creates small model versions for tests of registries."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mtorl.artifact.lineage import Code, Data, Figure, GateReport, Lineage, Parent

DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def model(number: int, **fields: Any) -> dict[str, Any]:
    created = (DAY_0 + timedelta(days=number)).isoformat()
    known = {"name": "challenger", "kind": "mtorl", "created": created, "data_fingerprint": "da7a", "simulated": True}
    found = {**known, "git_revision": "c0de", "files": {"weights.pt": "0"}, "digest": digest(number)} | fields
    return found | {"version": found["digest"][:12]}


def lineage_of(model: Mapping[str, Any], published: datetime = DAY_0) -> Lineage:
    data = Data(name="small", log=model["data_fingerprint"])
    return Lineage(digest=model["digest"], name=model["name"], published=published, data=data)


def lineage(number: int, parent: int | None = None, **fields: Any) -> Lineage:
    figure = Figure(value=0.1, low=0.05, high=0.15)
    rule = {"min_lift": 0.0, "margin": None, "valued_on": "touchpoints"}
    report = GateReport(decision="promote", reason="better", lift=figure, **rule)
    known = {
        "code": Code(git_revision="c0de"),
        "gate": report,
        "parents": () if parent is None else (Parent(digest=digest(parent)),),
        "settings": {"seed": 7},
        "metrics": {"reward_auc": Figure(value=0.7, low=0.68, high=0.72)},
    }
    return lineage_of(model(number), DAY_0 + timedelta(days=number)).replace(**known | fields)


def version(
    registry: Path, number: int, arm: str = "challenger", name: str = "", known: Lineage | None = None, **fields: Any
) -> str:
    content = model(number, **fields)
    folder = registry / arm / (name or content["version"])
    (folder / "artifact").mkdir(parents=True)
    (folder / "model-store").mkdir()
    (folder / "artifact" / "weights.pt").write_text("w")
    (folder / "artifact" / "dataset.yaml").write_text("name: small\n")
    (folder / "artifact" / "model.json").write_text(json.dumps(content))
    (folder / "model-store" / f"{arm}.mar").write_text("archive")
    (known or lineage(number)).write(folder)
    return f"{arm}/{folder.name}"

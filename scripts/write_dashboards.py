"""Writes the Grafana dashboards, manifests/base/dashboards/*.json, from scripts/dashboards/.

Run this script after changing scripts/dashboards/ or an alert. To add a dashboard, add a module, a line in BOARDS, and
a line in manifests/base/dashboards/kustomization.yaml.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.dashboards import budget, decisions, drift, experiment, pipelines, serving  # noqa: E402
from scripts.dashboards.board import document  # noqa: E402

FOLDER = ROOT / "manifests" / "base" / "dashboards"
BOARDS = (decisions, experiment, budget, drift, serving, pipelines)


def texts() -> dict[str, str]:
    """Return the content of each dashboard file, by the name of the file."""
    return {f"{module.BOARD.uid}.json": json.dumps(document(module.BOARD), indent=1) + "\n" for module in BOARDS}


def main() -> None:
    """Write all dashboards, and delete the files of dashboards that no longer exist."""
    written = texts()
    for path in FOLDER.glob("*.json"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

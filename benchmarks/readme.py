"""Write the README's table of measurements from the JSON files in benchmarks/results.

    python benchmarks/loop.py [--data FILE --dataset NAME] --json benchmarks/results/NAME.json    # for each data set
python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """| | {names} |
|---|{rules}|
"""


def main() -> None:
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    results.sort(key=lambda found: found["true_lift"] is None)
    rows = {
        "touchpoints": lambda found: f"{found['rows']:,}",
        "whole loop": lambda found: f"{found['seconds']:.0f} s",
        "of it training": lambda found: f"{found['steps']['train-challenger']:.0f} s",
        "decisions over HTTP": lambda found: f"{found['decisions']:,}",
        "errors, fallbacks": lambda found: f"{found['errors']}, {found['fallbacks']}",
        "latency p50, p99": lambda found: f"{found['p50_ms']:.0f} ms, {found['p99_ms']:.0f} ms",
        "gate": lambda found: found["gate"],
        "lift in clicks per decision": lambda found: "{:+.4f} [{:+.4f}, {:+.4f}]".format(
            found["lift"], *found["lift_ci"]
        ),
        "true lift": lambda found: "unknown" if found["true_lift"] is None else f"{found['true_lift']:+.4f}",
        "drift alarms on the served window": lambda found: str(found["clean_alerts"]),
    }
    names = " | ".join(found["dataset"] for found in results)
    table = HEAD.format(names=names, rules="|".join("---" for _ in results))
    table += "".join(f"| {name} | {' | '.join(cell(found) for found in results)} |\n" for name, cell in rows.items())
    machine = results[0]["environment"]
    table += f"\n`benchmarks/loop.py` on {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}.\n"
    readme = ROOT / "README.md"
    text = readme.read_text()
    begin, end = "<!-- measured -->\n", "<!-- end -->"
    assert begin in text and end in text, "README.md has lost its markers"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    readme.write_text(re.sub(pattern, lambda _: begin + table + end, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()

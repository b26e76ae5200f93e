"""Measures the feature layer: the sequence builder, point-in-time retrieval, and the online store.

    python benchmarks/features.py                                          # all measures, up to 5e7 rows
    python benchmarks/features.py --quick                                  # smaller, same code, under a minute
    python benchmarks/features.py --json benchmarks/results/features.json  # then benchmarks/tables.py
    python benchmarks/features.py --only builder --only online             # some measures; --json keeps the others

The script needs redis-server on the PATH, and in $TMPDIR about 200 bytes for each row of the largest log.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser

from benchmarks.feature_layer import builder, online, retrieval
from benchmarks.feature_layer.log import QUICK, Plan
from benchmarks.feature_layer.table import feature_tables

MEASURES = {"builder": builder.measure, "retrieval": retrieval.measure, "online": online.measure}
PACKAGES = ("duckdb", "ibis-framework", "feast", "redis", "pandas", "pyarrow", "numpy")


def main() -> None:
    options = parser(__doc__, "smaller, same code")
    options.add_argument("--only", action="append", choices=list(MEASURES), help="only this measure; may be repeated")
    arguments = options.parse_args()
    figures: dict[str, Any] = {"quick": arguments.quick, "environment": environment(*PACKAGES)}
    if arguments.only and arguments.json and Path(arguments.json).exists():
        there = json.loads(Path(arguments.json).read_text())
        if any(there[key] != figures[key] for key in figures):
            options.error(f"{arguments.json}: measured with another --quick, hardware or versions; name another file")
        figures = there
    for name in arguments.only or MEASURES:
        with tempfile.TemporaryDirectory(prefix="mtorl-bench-") as folder:
            figures[name] = MEASURES[name](QUICK if arguments.quick else Plan(), Path(folder))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    print("\n" + feature_tables(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()

"""How often the drift check alarms although nothing has drifted, on periods of users that no training saw.

    python benchmarks/drift.py --json benchmarks/results/drift/simulator.json          # half an hour
    python benchmarks/drift.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence --json ...
    python benchmarks/drift.py --quick                                                 # few periods

References, thresholds and scores are made as for an artifact and by the drift job. Beside the reference that is used, a
stretch of each journey, stands the one that used to be: everyone's last five touchpoints, with thresholds measured in
the same way. A period alarms if any test of any context or static column does. The chosen rate is 1 %.

Periods of one split share its reference. Intervals (95 %) are therefore the wider of the exact binomial one and of one
that takes each split as a single observation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _environment import environment, finish

from benchmarks.drift_rates.periods import Recorded, Simulated, Source
from benchmarks.drift_rates.table import rates_table
from mtorl.drift.calibration import ALPHA, Size
from mtorl.drift.drift_tests import asked_of
from mtorl.drift.reference import sample_users, stretches, typed
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.fitting.training_summary import REFERENCE_TOUCHPOINTS
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import DATASET_FILE, LOG_FILE

USERS = (60, 150, 600, 1_500, 5_000)
PERIODS = 500  # of each kind and size
QUICK_USERS, QUICK_SPLITS, QUICK_PERIODS = (60, 600), 2, 20
TRAINING_USERS = 4_200  # simulated: those of the training split of 6,000 users


def stretch(log: pd.DataFrame) -> pd.DataFrame:
    """As `TrainingSummary` draws it."""
    share = min(1.0, REFERENCE_TOUCHPOINTS * log["user_id"].nunique() / len(log))
    return log[stretches(log["user_id"], share)]


def last(log: pd.DataFrame) -> pd.DataFrame:
    """As it was once."""
    return log.groupby("user_id", sort=False).tail(REFERENCE_TOUCHPOINTS)


DRAWN: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"stretch": stretch, "last": last}


class Check:
    """A reference with its thresholds, as an artifact has them."""

    def __init__(self, reference: pd.DataFrame, kinds: Mapping[str, str]) -> None:
        self._reference = sample_users(reference.reset_index(drop=True)).reset_index(drop=True)
        self._kinds = kinds
        self._columns = typed(self._reference, kinds)
        self._grid = ThresholdGrid.measure(self._reference, kinds)

    def alarms(self, period: pd.DataFrame) -> list[str]:
        """Columns that alarm."""
        sample = sample_users(period)
        thresholds = self._grid.at(Size(sample["user_id"].nunique(), len(sample)), self._kinds)
        assert thresholds is not None
        both = pd.concat([self._columns, typed(sample, self._kinds)], ignore_index=True)
        in_reference = (np.arange(len(both)) < len(self._columns)).astype(np.float64)
        return [
            name
            for name, kind in self._kinds.items()
            if any(
                test.scorer(both[name])(in_reference, 1.0 - in_reference) >= thresholds[name, test.method]
                for test in asked_of(kind)
            )
        ]


def measure(source: Source, sizes: tuple[int, ...], splits: int, periods: int) -> list[dict[str, Any]]:
    """Alarms of each split, by kind and size of the period and by reference."""
    kinds = {column.name: column.kind for column in (*source.spec.context, *source.spec.static)}
    counts: dict[tuple[str, int], dict[str, list[int]]] = defaultdict(lambda: {name: [0] * splits for name in DRAWN})
    columns: dict[tuple[str, int], dict[str, Counter[str]]] = defaultdict(lambda: {name: Counter() for name in DRAWN})
    started = time.monotonic()
    for split in range(splits):
        log = source.training(split)
        checks = {name: Check(draw(log), kinds) for name, draw in DRAWN.items()}
        for users in sizes:
            for kind, period in source.periods(split, users, periods):
                for name, check in checks.items():
                    alarms = check.alarms(period)
                    counts[kind, users][name][split] += bool(alarms)
                    columns[kind, users][name].update(alarms)
        print(f"split {split + 1} of {splits}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return [
        {
            "periods_of": kind,
            "users": users,
            "periods": splits * periods,
            "alarms": {name: {"of_split": found[name], "columns": columns[kind, users][name]} for name in DRAWN},
        }
        for (kind, users), found in sorted(counts.items())
    ]


def recorded(data: str, dataset: str, folder: Path) -> Recorded:
    """A raw log, ingested as for a training."""
    from pipelines.paper import PaperConfig, prepare

    prepare(dataset, data, PaperConfig({}, folder))
    log = folder / "data" / dataset / "log"
    return Recorded(pd.read_parquet(log / LOG_FILE), DatasetSpec.load(log / DATASET_FILE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    parser.add_argument("--dataset", default="simulator", help="name of its description")
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="few periods of two sizes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source: Source = (
            recorded(args.data, args.dataset, Path(folder))
            if args.data
            else (Simulated(TRAINING_USERS, DatasetSpec.load("simulator")))
        )
    sizes, splits, periods = (
        (QUICK_USERS, QUICK_SPLITS, QUICK_PERIODS) if args.quick else (USERS, source.splits, PERIODS)
    )
    figures = {
        "environment": environment(),
        "dataset": args.dataset,
        "alpha": ALPHA,
        "runs": measure(source, tuple(n for n in sizes if n <= source.most_users), splits, periods // splits),
    }
    print(rates_table([figures]))
    finish(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

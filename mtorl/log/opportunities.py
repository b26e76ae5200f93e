"""Reads opportunities: the decisions of our own policies, for training and evaluation.

In an opportunity, the policy drew a channel and decided whether to show the ad, both with known probabilities.

Shapes: B rows, C channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log.dataset import DatasetSpec

OPPORTUNITIES_FILE = "opportunities.parquet"
ENOUGH = 500
"""Smallest number of own decisions that are used as opportunities. With fewer, price and policy value are estimated
from the log's touchpoints, which contain more information."""
MOST_TOUCHPOINTS = 20_000_000
"""Default limit for the touchpoints that a training reads, whether from the log or from own decisions. It is
approximate, because all touchpoints of a user are kept or left out together."""
MOST_WINDOWS = 100_000
"""Limit for the opportunities of one split that are stored with their window (about 100 MB). It is approximate, because
whole users are chosen by a hash."""
MOST_CONTEXTS = 1_000_000
"""Limit for the decisions of training users in the file; the drift check needs no more. It is approximate, because
whole users are chosen by a hash."""
_BATCH = 8192
_COLUMNS = ("user_id", "timestamp", "arm", "generation", "channel", "channel_probs", "exposure_probs", "exposed")


@dataclass(frozen=True)
class Opportunities:
    """The decisions of our own policies for the users of one split (train, val or test)."""

    # user_id, timestamp, arm, generation (the policy that drew the channel), and the outcomes
    rows: pd.DataFrame
    channel_B: Ints  # position in the data set's channels
    exposed_B: Bools
    channel_probs_BC: Floats
    exposure_probs_BC: Floats
    # JSON text, because parsed windows would take several times the memory.
    windows: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def enough(self) -> bool:
        """Return whether price and policy value can be estimated from these decisions instead of touchpoints."""
        return len(self) >= ENOUGH

    @property
    def propensity_B(self) -> Floats:
        """Return the probability with which each decision's channel was drawn."""
        probability_B: Floats = self.channel_probs_BC[np.arange(len(self)), self.channel_B]
        return probability_B

    def chosen(self, chosen_B: Bools) -> Opportunities:
        """Return the opportunities that a mask selects."""
        return Opportunities(
            self.rows[chosen_B].reset_index(drop=True),
            self.channel_B[chosen_B],
            self.exposed_B[chosen_B],
            self.channel_probs_BC[chosen_B],
            self.exposure_probs_BC[chosen_B],
            [window for window, chosen in zip(self.windows, chosen_B, strict=True) if chosen],
        )

    @classmethod
    def load(cls, folder: str | Path, spec: DatasetSpec, split: str) -> Opportunities:
        """Read the decisions of a split that fit the data set's current columns and channels."""
        path = Path(folder) / OPPORTUNITIES_FILE
        if not path.exists():
            return cls._none(spec)
        columns = ["decision_id", *_COLUMNS, *spec.window_outcomes, "features"]
        rows = _read(path, columns, split, with_window=True)
        # The rounding of sums depends on the order of the rows.
        rows = rows.sort_values(["user_id", "timestamp", "decision_id"], ignore_index=True)
        channel_B = pd.Index(spec.channels).get_indexer(pd.Index(rows["channel"]))
        fit_B = np.array([_fits(json.loads(text), spec) for text in rows["features"]], dtype=bool) & (channel_B >= 0)
        if not fit_B.any():
            return cls._none(spec)
        rows = rows[fit_B].reset_index(drop=True)
        channel_probs_BC = np.stack(rows["channel_probs"].tolist())
        return cls(
            rows=rows[["user_id", "timestamp", "arm", "generation", *spec.window_outcomes]],
            channel_B=channel_B[fit_B].astype(np.int64),
            exposed_B=rows["exposed"].to_numpy(dtype=bool),
            channel_probs_BC=channel_probs_BC / channel_probs_BC.sum(axis=1, keepdims=True),  # records may be rounded
            exposure_probs_BC=np.stack(rows["exposure_probs"].tolist()),
            windows=rows["features"].tolist(),
        )

    @classmethod
    def _none(cls, spec: DatasetSpec) -> Opportunities:
        rows = pd.DataFrame(columns=["user_id", "timestamp", "arm", "generation", *spec.window_outcomes])
        channel_B, exposed_B = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        probs_BC = np.empty((0, len(spec.channels)))
        return cls(rows, channel_B, exposed_B, probs_BC, probs_BC, [])


def contexts(folder: str | Path, spec: DatasetSpec, split: str) -> pd.DataFrame | None:
    """Return the user ids and context columns of a split's decisions, sorted by user and time."""
    path = Path(folder) / OPPORTUNITIES_FILE
    columns = ["user_id", *(column.name for column in spec.context)]
    if not path.exists() or not set(columns) <= set(ds.dataset(path, format="parquet").schema.names):
        return None
    found = _read(path, [*columns, "timestamp"], split)
    rows: pd.DataFrame = found.sort_values(["user_id", "timestamp"], ignore_index=True)[columns]
    return rows if len(rows) >= ENOUGH else None


def _read(path: Path, columns: list[str], split: str, with_window: bool = False) -> pd.DataFrame:
    """Read the rows of one split in batches, because all splits may need too much memory."""
    wanted = pc.field("split") == split
    if with_window:
        wanted &= pc.field("features").is_valid()
    found = ds.dataset(path, format="parquet")
    scanner = found.scanner(columns=columns, filter=wanted, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1)
    rows: pd.DataFrame = scanner.to_table().to_pandas(split_blocks=True, self_destruct=True)
    return rows


def _fits(window: dict[str, Any], spec: DatasetSpec) -> bool:
    return (
        {c.name for c in spec.context} <= set(window["context"])
        and {c.name for c in spec.static} <= set(window["static"])
        and {f"prev_{name}" for name in spec.window_outcomes} <= set(window)
        and {c.name for c in spec.feature_columns} <= set(window.get("features", {}))
        and len(window["prev_channel"]) <= spec.window
        and {name for name in window["prev_channel"] if name is not None} <= set(spec.channels)
    )

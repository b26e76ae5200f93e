"""Measures how much memory an evaluation needs, depending on the size of its log."""

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks._process import clock

# Number of touchpoints in a shard, and of a user.
SHARD_ROWS, LENGTH = 250_000, 25
# Write at most this many shards, because an evaluation reads only a sample of the listed shards.
DISTINCT = 40


def write_steps(folder: str, rows: int, shard_rows: int = SHARD_ROWS) -> dict[str, Any]:
    """Write a windows folder with `rows` touchpoints, in the format of the sequence builder."""
    from mtorl.log.dataset import DatasetSpec
    from mtorl.window.table import SCHEMA_VERSION

    place, listed = Path(folder), list[dict[str, Any]]()
    (place / "steps").mkdir(parents=True)
    with clock() as figures:
        for number in range(-(-rows // shard_rows)):
            file = f"steps/part-{number:05d}.parquet"
            one = _shard(place / file, number, shard_rows) if number < DISTINCT else {**listed[0], "sha256": "unread"}
            listed.append({**one, "file": file})
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "rows": sum(one["rows"] for one in listed),
        "shards": listed,
        "log_fingerprint": "made",
    }
    (place / "manifest.json").write_text(json.dumps(manifest))
    DatasetSpec.load("simulator").save(place / "dataset.yaml")
    return figures


def fit(windows: str, models: str) -> dict[str, Any]:
    """Fit small models, because their quality does not matter here."""
    from mtorl.fitting.fit import fit_challenger, fit_incumbent
    from mtorl.network.training import TrainConfig

    with clock() as figures:
        fit_incumbent(windows, f"{models}/incumbent")
        fit_challenger(windows, f"{models}/challenger", TrainConfig(epochs=1, hidden=16, device="cpu"), 0.5)
    return figures


def evaluate(windows: str, models: str) -> dict[str, Any]:
    from mtorl.baselines.lightgbm import fit_outcomes
    from mtorl.evaluation.offline import evaluate_offline

    with clock() as figures:
        found = evaluate_offline(windows, f"{models}/challenger", f"{models}/incumbent", 0.6, 7, fit_outcomes)
    return {**figures, "test_rows": found["test_rows"], "test_share": found.get("test_share")}


def _shard(path: Path, number: int, rows: int) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    from mtorl.log.dataset import DatasetSpec

    spec, rng, users = DatasetSpec.load("simulator"), np.random.default_rng(number), rows // LENGTH
    many = users * LENGTH
    at = 1_790_000_000_000_000 + rng.integers(60, 86_400, (users, LENGTH)).cumsum(1) * 1_000_000
    frame: dict[str, Any] = {
        "user_id": np.repeat([f"user-{number:05d}-{i:07d}" for i in range(users)], LENGTH),
        "timestamp": pd.to_datetime(at.ravel(), unit="us", utc=True).as_unit("us"),
        "step": np.tile(np.arange(LENGTH, dtype=np.int32), users),
        "campaign_id": rng.choice([f"c{i}" for i in range(20)], many),
        "channel": rng.choice(spec.channels, many),
        "cost": rng.random(many).round(3),
        "click": (rng.random(many) < 0.1).astype(np.int64),
        "conversion": (rng.random(many) < 0.01).astype(np.int64),
        "propensity": np.full(many, 1 / len(spec.channels)),
    }
    frame["revenue"] = frame["conversion"] * rng.random(many)
    for column in spec.context:
        frame[column.name] = rng.choice(["a", "b", "c"], many) if column.kind == "categorical" else rng.random(many)
    for column in spec.static:
        of_user = rng.choice(["x", "y"], users) if column.kind == "categorical" else rng.random(users)
        frame[column.name] = np.repeat(of_user, LENGTH)
    pd.DataFrame(frame).to_parquet(path, compression="zstd", index=False)
    return {"rows": many, "users": users, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

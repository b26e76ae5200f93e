"""Touchpoints for drift tests, with similar rows of each user."""

import numpy as np
import pandas as pd

from mtorl.log.dataset import Column

COLUMNS = (
    Column(name="hour", kind="numeric"),
    Column(name="device", kind="categorical"),
    Column(name="placement", kind="categorical"),
    Column(name="tenure", kind="numeric"),
    Column(name="region", kind="categorical"),
)
KINDS = {column.name: column.kind for column in COLUMNS}


def touchpoints(rng: np.random.Generator, users: int, mean: int = 8, mobile: float = 0.0) -> pd.DataFrame:
    length = 2 + rng.poisson(mean - 2, users)
    of = np.repeat(np.arange(users), length)
    rows = len(of)
    taste = rng.normal(size=users)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in of],
            "hour": (13 + 4 * taste[of] + 2 * rng.normal(size=rows)) % 24,
            "device": np.where(rng.random(rows) < 1 / (1 + np.exp(-mobile - 2 * taste[of])), "mobile", "desktop"),
            "placement": rng.choice(["feed", "story", "banner"], rows, p=[0.6, 0.3, 0.1]),
            "tenure": rng.exponential(200, users)[of],
            "region": rng.choice(list("NESW"), users)[of],
        }
    )

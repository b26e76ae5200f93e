"""Writes small example logs in the formats of other systems.

The log `bandit` has the columns of the Open Bandit Dataset (Saito et al., 2021), with random values.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 2000


def bandit(path: Path) -> None:
    """Write a log of a policy that chooses uniformly among 80 items, without user and cost."""
    random = np.random.default_rng(1)
    item = random.integers(0, 80, ROWS)
    log = {
        "timestamp": pd.date_range("2019-11-24", periods=ROWS, freq="37s", tz="UTC").astype(str),
        "item_id": item,
        "position": random.integers(1, 4, ROWS),
        "click": (random.random(ROWS) < 0.02 + 0.04 * (item < 20)).astype(int),
        "propensity_score": 1 / 80,
        **{f"user_feature_{i}": random.choice([f"{7919 * k:032x}" for k in range(3 + 2 * i)], ROWS) for i in range(4)},
        **{f"user-item_affinity_{i}": random.binomial(2, 0.02, ROWS).astype(float) for i in range(80)},
    }
    pd.DataFrame(log).to_csv(path)


def ads_export(path: Path) -> None:
    """Write a semicolon-separated log with decimal commas, costs in millionths and dates that start with the day."""
    random = np.random.default_rng(2)
    click = random.random(ROWS) < 0.2
    value = np.where(click & (random.random(ROWS) < 0.4), random.gamma(2, 9, ROWS).round(2), 0)
    log = pd.DataFrame(
        {
            "Day & time": pd.date_range("2024-10-01", periods=ROWS, freq="11min").strftime("%d.%m.%Y %H:%M:%S"),
            "User ID": [f"CID-{u:04d}" for u in random.integers(0, 400, ROWS)],
            "Campaign": random.choice(["Herbst 24", "Marke"], ROWS),
            "Ad network": random.choice(["Search", " Display", "YouTube "], ROWS),
            "Cost (micros)": random.integers(20, 900, ROWS) * 1000,
            "Clicks": click.astype(int),
            "Conv. value": [f"{v:.2f}".replace(".", ",") for v in value],
            "CTR": [f"{100 * c},00" for c in click.astype(int)],
            "Quality score": random.integers(1, 11, ROWS),
            "Bid adj.": [f"{b:.2f}".replace(".", ",") for b in random.random(ROWS)],
            "Device": random.choice(["Mobil", "Desktop", "Tablet"], ROWS),
        }
    )
    log.to_csv(path, index=False, sep=";")


def nested_events(path: Path) -> None:
    random = np.random.default_rng(3)
    with path.open("w", encoding="utf-8") as file:
        for i in range(ROWS):
            clicked = bool(random.random() < 0.2)
            revenue = round(float(random.gamma(2, 3)), 2) if clicked and random.random() < 0.4 else 0.0
            ad = {"campaign": str(random.choice(["a", "b"])), "slot": str(random.choice(["banner", "feed", "preroll"]))}
            event = {
                "event": {"id": f"e{i:06d}", "ts": 1_727_740_800_000 + 600_000 * i},
                "user": {"id": f"u{random.integers(0, 400)}", "geo": {"country": str(random.choice(["DE", "FR"]))}},
                "ad": {**ad, "price": round(float(random.random()), 4), "keywords": ["x", "y"]},
                "device": {
                    "os": str(random.choice(["ios", "android"])),
                    "screen-width": int(random.integers(300, 900)),
                },
                "outcome": {"clicked": clicked, "revenue": revenue},
            }
            file.write(json.dumps(event) + "\n")

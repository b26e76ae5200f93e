"""Write the log of an example ad platform, from simulated users.

    python make_log.py

ads.csv      one row per ad that was shown: imp, uid, shown_at (seconds since 1970), line_item, slot, price_paid,
             clicked, profit, device, placement, age_group
orders.csv   what users ordered hours or days later: order_id, uid, ordered_at, cents

The platform has its own column names, which differ from those of this project. `traffic.py` simulates the days after
the log.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from mtorl.simulator.simulator import Simulator, SimulatorConfig

CLICK_PAYS = 0.5  # EUR
SLOTS = {"search": "SRP", "social": "FEED", "display": "BANNER", "video": "PREROLL"}


def market(users: int, seed: int) -> Simulator:
    """Return a simulator of the platform's users and of their responses to ads."""
    return Simulator(SimulatorConfig(users=users, seed=seed))


def log_and_orders(simulator: Simulator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of ads.csv and of orders.csv."""
    log = simulator.log().sort_values("timestamp", kind="stable", ignore_index=True)
    seconds = log["timestamp"].astype("int64") // 1_000_000
    ads = pd.DataFrame(
        {
            "imp": [f"i{n:07d}" for n in range(len(log))],
            "uid": log["user_id"],
            "shown_at": seconds,
            "line_item": log["campaign_id"],
            "slot": log["channel"].map(SLOTS),
            "price_paid": log["cost"].round(4),
            "clicked": log["click"],
            "profit": CLICK_PAYS * log["click"],
            "device": log["device"],
            "placement": log["placement"],
            "age_group": log["age_group"],
        }
    )
    ordered = log["conversion"] > 0
    hours = np.random.default_rng(simulator.config.seed).exponential(30.0, int(ordered.sum()))
    orders = pd.DataFrame(
        {
            "order_id": [f"o{n:06d}" for n in range(len(hours))],
            "uid": log.loc[ordered, "user_id"],
            "ordered_at": pd.to_datetime(seconds[ordered] + (3600 * hours).astype("int64"), unit="s"),
            "cents": (100 * log.loc[ordered, "revenue"]).round().astype("int64"),
        }
    )
    return ads, orders.sort_values("ordered_at", kind="stable")


def main() -> None:
    """Write both files into the current folder."""
    parser = argparse.ArgumentParser(description="Write ads.csv and orders.csv.")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    ads, orders = log_and_orders(market(args.users, args.seed))
    for name, table in (("ads.csv", ads), ("orders.csv", orders)):
        table.to_csv(Path(name), index=False)
        print(f"{name}: {len(table):,} rows of {table['uid'].nunique():,} users")


if __name__ == "__main__":
    main()

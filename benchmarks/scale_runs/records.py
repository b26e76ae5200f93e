"""Measures how many bytes a record needs on a router's disk (in the spool), and in the lake.

Predictions are random numbers, because these compress worst.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

from benchmarks._process import clock
from benchmarks.scale_runs.made_lake import CHANNELS
from mtorl.log.records import KINDS

# Number of records in a file.
RECORDS = 1_000


def record_bytes(folder: str) -> dict[str, Any]:
    """Let a router log and upload `RECORDS` decisions with outcomes and windows, and return the bytes per record."""
    with clock() as figures:
        found = asyncio.run(_logged(Path(folder)))
    return {**figures, **found}


async def _logged(place: Path) -> dict[str, Any]:
    import orjson

    from benchmarks.scale_runs.market import router
    from benchmarks.scale_runs.start import some_records, with_own_ids
    from mtorl.log.lake import Lake
    from serving.decision_log.lake_sink import LakeSink
    from serving.decision_log.segments import Batch, Position

    async with router(place / "router", "ledger.sqlite", str(place / "unused"), 1e6, window_share=1.0) as one:
        like = await some_records(one, RECORDS)
    lake, chance, found = Lake.open(place / "lake"), random.Random(1), dict[str, Any]()
    sink = LakeSink(lake, "0" * 8)
    for kind in KINDS:
        if not like.get(kind):
            continue
        made = (with_own_ids(kind, like[kind][i % len(like[kind])], i, "0" * 8) for i in range(RECORDS))
        lines = tuple(
            orjson.dumps(_of_a_model(record, chance) if kind == "decision" else record) + b"\n" for record in made
        )
        await sink.deliver(Batch(kind, Position(1, 0), lines))
        lake_bytes = sum(file.size for file in lake.arrived(kind))
        found[kind] = {"spool": sum(map(len, lines)) / RECORDS, "lake": lake_bytes / RECORDS}
    await sink.close()
    return found


def _of_a_model(record: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    drawn = {
        name: {channel: chance.random() for channel in CHANNELS}
        for name in ("channel_probs", "exposure_probs", "expected_rewards", "expected_costs")
    }
    numbers = {name: chance.random() for name in ("propensity", "expected_reward", "expected_cost", "state_distance")}
    return {**record, **drawn, **numbers, "latency_seconds": chance.random(), "model_digest": "0" * 64}

"""What the pacing of budgets costs a second, by campaigns and routers: of the routers together, and of their Redis."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._process import redis_server
from benchmarks.scale_runs.batch import definition
from benchmarks.scale_runs.made_lake import CHANNELS

EXPOSURES = 60  # a second, over all campaigns


def pace(campaigns: int, routers: int, rounds: int) -> dict[str, Any]:
    """Let so many routers keep prices for some seconds, while exposures spend."""
    from mtorl.experiment.experiment import Experiment
    from mtorl.experiment.layers import Experiments
    from serving.ledger import Account, Wanted, open_ledger
    from serving.router.flow.pacer import Pacer

    rows = "".join(f"c{i},*,200,day,0.5\n" for i in range(campaigns))
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), "--appendonly", "yes") as at:
        (Path(folder) / "budgets.csv").write_text(f"campaign,channel,amount,period,price\n{rows}")
        content = definition("e", budgets=[], budget_table="budgets.csv")
        found = Experiments([Experiment.from_dict(content, Path(folder))])
        ledgers = [open_ledger(f"redis://{at}?name=ads", 5.0) for _ in range(routers)]
        ledgers[0].define(
            [Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in found.accounts()]
        )
        pacers = [Pacer(ledger, dict.fromkeys(CHANNELS, 0.15)) for ledger in ledgers]
        for _ in range(2):
            for pacer in pacers:
                pacer.refresh(found)
        from redis import Redis

        client = Redis(port=int(at.split(":")[1]))

        def redis_seconds() -> float:
            used = client.info("cpu")
            return float(used["used_cpu_sys"] + used["used_cpu_user"])

        chance, lead, read, redis, began = random.Random(1), 0.0, 0.0, 0.0, time.perf_counter()
        for second in range(rounds):
            ledgers[0].reserve_all(
                [
                    Wanted(f"{second}-{i}", "e/challenger", f"c{chance.randrange(campaigns)}", CHANNELS[0], 0.05)
                    for i in range(EXPOSURES)
                ]
            )
            before = redis_seconds()
            for pacer in pacers:
                cpu = time.thread_time()
                pacer.refresh(found)
                cpu = time.thread_time() - cpu
                lead, read = (lead + cpu, read) if pacer.leads else (lead, read + cpu)
            redis += redis_seconds() - before
            time.sleep(max(0.0, began + second + 1 - time.perf_counter()))
        wall = time.perf_counter() - began
        figures = {"leader_ms": lead, "readers_ms": read, "redis_ms": redis}
        return {
            "seconds": wall,
            **{name: 1e3 * of / wall for name, of in figures.items()},
            "leaders": sum(pacer.leads for pacer in pacers),
        }

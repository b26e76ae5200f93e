"""Measures how much CPU time the routers and their Redis need for pacing, by number of campaigns and routers.

Time is simulated. The first two minutes are not counted, because a router that begins to pace writes all accounts once.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._process import redis_server
from benchmarks.scale_runs.batch import definition
from benchmarks.scale_runs.made_lake import CHANNELS, END

EXPOSURES = 60  # exposures per second, of all campaigns together
COST = 0.05
WARM_SECONDS = 120
ARMS = ("incumbent", "challenger")


class _Clock:
    """A clock, in seconds since 1970, that can be moved forward."""

    def __init__(self) -> None:
        self._then, self._set = END.timestamp() + 43_200, time.perf_counter()

    def __call__(self) -> float:
        return self._then + time.perf_counter() - self._set

    def next_second(self, at: float) -> None:
        """Move the clock to one second after `at`, unless it is later."""
        self._then, self._set = max(at + 1, self()), time.perf_counter()


def pace(campaigns: int, routers: int, seconds: int) -> dict[str, Any]:
    """Simulate seconds in which exposures spend money and routers update their prices; measure the CPU time."""
    from redis import Redis

    from mtorl.experiment.experiment import Experiment
    from mtorl.experiment.layers import Experiments
    from serving.ledger.contract import Cost, Wanted
    from serving.ledger.location import RedisLocation
    from serving.ledger.pacer import Pacer, ledger_accounts
    from serving.ledger.redis_ledger import RedisLedger

    clock, chance = _Clock(), random.Random(1)
    budget = EXPOSURES * COST * 86_400 / campaigns
    rows = "".join(f"c{i},*,{budget},day,0.5\n" for i in range(campaigns))
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), appendonly="yes") as port:
        (Path(folder) / "budgets.csv").write_text(f"campaign,channel,amount,period,price\n{rows}")
        content = definition("e", budgets=[], budget_table="budgets.csv")
        found = Experiments([Experiment.from_dict(content, Path(folder))])
        location, client = RedisLocation.parse(f"redis://127.0.0.1:{port}?name=ads"), Redis(port=port)
        ledgers = [RedisLedger(location, None, 5.0, clock) for _ in range(routers)]
        caps = dict.fromkeys(CHANNELS, 0.15)
        ledgers[0].define(ledger_accounts(found, caps))
        pacers = [Pacer(ledger, caps, clock) for ledger in ledgers]

        def spend(name: str, arm: str, campaign: int, amount: float) -> Wanted:
            return Wanted(name, f"e/{arm}", f"c{campaign}", CHANNELS[0], amount)

        def redis_seconds() -> float:
            used = client.info("cpu")
            return float(used["used_cpu_sys"] + used["used_cpu_user"])

        # The simulation begins at noon, so reserve half of each budget.
        for i in range(campaigns):
            ledgers[0].reserve_all([spend(f"morning-{i}-{arm}", arm, i, budget / 4) for arm in ARMS])
        began, open_before = time.perf_counter(), list[Wanted]()
        cpu = dict.fromkeys(("leader_ms", "readers_ms", "redis_ms"), 0.0)
        for second in range(-WARM_SECONDS, seconds):
            start = clock()
            if second == 0:
                cpu = dict.fromkeys(cpu, 0.0)
            ledgers[0].settle_all([Cost(one.reservation_id, COST, f"cost-{one.reservation_id}") for one in open_before])
            open_before = [
                spend(f"{second}-{i}", chance.choice(ARMS), chance.randrange(campaigns), COST) for i in range(EXPOSURES)
            ]
            ledgers[0].reserve_all(open_before)
            before = redis_seconds()
            for pacer in pacers:
                own = time.thread_time()
                pacer.refresh(found)
                cpu["leader_ms" if pacer.leads else "readers_ms"] += 1e3 * (time.thread_time() - own)
            cpu["redis_ms"] += 1e3 * (redis_seconds() - before)
            clock.next_second(start)
        return {
            "seconds": time.perf_counter() - began,
            **{name: of / seconds for name, of in cpu.items()},
            "leaders": sum(pacer.leads for pacer in pacers),
        }

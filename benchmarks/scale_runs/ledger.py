"""Measures the budget ledger on Redis: the memory of a reservation, and the work for an exposure.

The append-only file is not synced, because the duration of a sync depends only on the disk.
"""

import uuid

from redis import Redis

from mtorl.policy.periods import Period
from serving.ledger import open_ledger
from serving.ledger.contract import Account, Cost, Ledger, Wanted

FLAGS = {"appendonly": "yes", "appendfsync": "no"}
PERIODS: tuple[Period, ...] = ("total", "day")


def memory(port: int, number: int) -> dict[str, float]:
    """Measure the bytes of an open, a settled and an expired reservation."""
    ledger, found = _ledger(port, 100), {}
    for end in ("settled", "expired"):
        before, made = _work(port), _exposures(number, 100)
        for i in range(0, number, 100):
            ledger.reserve_all(made[i : i + 100])
        if end == "settled":
            found["open"] = _each(before, port, number)["memory_bytes"]
            for one in made:
                ledger.settle_all([Cost(one.reservation_id, 0.03, f"event-{one.reservation_id}")])
        else:
            while ledger.expire(0):
                pass
        found[end] = _each(before, port, number)["memory_bytes"]
    return found


def decision(port: int, campaigns: int, routers: int, number: int) -> dict[str, float]:
    """Measure the work of Redis for an exposure: one router reserves the money, and another router reports the cost."""
    ledgers = [_ledger(port, campaigns) for _ in range(routers)]
    for ledger in ledgers:
        ledger.expire(1e9)
        ledger.open_reservations()
    made = _exposures(number, campaigns)
    before = _work(port)
    for i, one in enumerate(made):
        ledgers[i % routers].reserve_all([one])
    for i, one in enumerate(made):
        ledgers[(i + 1) % routers].settle_all([Cost(one.reservation_id, 0.03, f"event-{one.reservation_id}")])
    return _each(before, port, number)


def _ledger(port: int, campaigns: int) -> Ledger:
    ledger, arms = open_ledger(f"redis://127.0.0.1:{port}?name=ads", 30.0), ("*", "e0/incumbent", "e0/challenger")
    ledger.define(
        [Account(arm, f"c{c}", "*", 1e6, period) for c in range(campaigns) for arm in arms for period in PERIODS]
    )
    return ledger


def _exposures(number: int, campaigns: int) -> list[Wanted]:
    """Return reservations for `number` exposures. Ids are as long as a router's."""
    names = [str(uuid.uuid4()) for _ in range(number)]
    return [
        Wanted(name, "e0/challenger", f"c{i % campaigns}", "video", 0.05, uuid.uuid4().hex)
        for i, name in enumerate(names)
    ]


def _work(port: int) -> dict[str, float]:
    with Redis(port=port) as client:
        stats, calls = client.info("stats"), client.info("commandstats")
        return {
            "commands": sum(found["calls"] for name, found in calls.items() if name != "cmdstat_info"),
            "cpu_us": 1e6 * client.info("cpu")["used_cpu_user"],
            "network_bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
            "memory_bytes": client.info("memory")["used_memory"],
        }


def _each(before: dict[str, float], port: int, number: int) -> dict[str, float]:
    after = _work(port)
    return {name: (after[name] - before[name]) / number for name in after}

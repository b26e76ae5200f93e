"""Measures the budget ledger on Redis: memory, commands and CPU a decision, setting many accounts.

    python benchmarks/ledger.py                    # about three minutes
    python benchmarks/ledger.py --quick            # a tenth of all sizes

A real redis-server with the append-only file, which it does not sync here: the time of a sync is the disk's. CPU is
that of the server (`used_cpu_user`), of all its work for the calls. Each exposure has a request id, a budget in all and
one a day, of the campaign, in two arms.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from itertools import product
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser
from redis import Redis

from benchmarks._markdown import table
from benchmarks._process import redis_server
from serving.ledger import Account, Ledger, Wanted, open_ledger

# Without rewrites the size of the append-only file is what was written.
FLAGS = {"appendonly": "yes", "appendfsync": "no", "auto_aof_rewrite_percentage": "0"}


def accounts(campaigns: int, experiments: int) -> list[Account]:
    """Of each campaign, as a whole and by arm, in all and a day."""
    arms = ["*", *(f"e{number}/{arm}" for number in range(experiments) for arm in ("incumbent", "challenger"))]
    periods = ("total", "day") if experiments == 1 else ("day",)
    return [Account(arm, f"c{c}", "*", 1e6, period) for c in range(campaigns) for arm in arms for period in periods]  # type: ignore[arg-type]


def exposures(number: int, campaigns: int) -> list[Wanted]:
    """Reservations of as many decisions, with ids and requests like a router's."""
    names = [uuid.uuid4() for _ in range(number)]
    return [
        Wanted(str(name), "e0/challenger", f"c{i % campaigns}", "video", 0.05, uuid.uuid4().hex)
        for i, name in enumerate(names)
    ]


class Server:
    """A Redis of one measurement."""

    def __init__(self, port: int) -> None:
        self.client = Redis(port=port)
        self._port = port

    def ledger(self) -> Ledger:
        """A router's."""
        return open_ledger(f"redis://127.0.0.1:{self._port}?name=ads", 30.0)

    def spent(self) -> dict[str, float]:
        """What it has worked so far."""
        cpu, stats, kept = self.client.info("cpu"), self.client.info("stats"), self.client.info("persistence")
        calls = self.client.info("commandstats")
        commands = sum(found["calls"] for name, found in calls.items() if name != "cmdstat_info")
        return {
            "commands": commands,
            "cpu_us": 1e6 * cpu["used_cpu_user"],
            "network_bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
            "file_bytes": kept["aof_current_size"],
            "memory_bytes": self.client.info("memory")["used_memory"],
        }


def _each(before: dict[str, float], after: dict[str, float], number: int) -> dict[str, float]:
    return {name: (after[name] - before[name]) / number for name in after}


def memory(server: Server, number: int) -> dict[str, float]:
    """Bytes of an open, an expired and a settled reservation, each with its request."""
    ledger, found = server.ledger(), {}
    ledger.define(accounts(100, 1))
    for end in ("settled", "expired"):
        before, made = server.spent(), exposures(number, 100)
        for i in range(0, number, 100):
            ledger.reserve_all(made[i : i + 100])
        if end == "settled":
            found["open"] = _each(before, server.spent(), number)["memory_bytes"]
            for one in made:
                ledger.settle(one.reservation_id, 0.03, f"event-{one.reservation_id}")
        else:
            ledger.expire(0, number)
        found[end] = _each(before, server.spent(), number)["memory_bytes"]
    return found


def decision(server: Server, campaigns: int, routers: int, number: int) -> dict[str, float]:
    """Work of an exposure (a reservation and its settlement), among so many campaigns and routers."""
    ledgers = [server.ledger() for _ in range(routers)]
    for ledger in ledgers:
        ledger.define(accounts(campaigns, 1))
        ledger.expire(1e9)
        ledger.open_reservations()
    made = exposures(number, campaigns)
    before = server.spent()
    for i, one in enumerate(made):
        ledgers[i % routers].reserve_all([one])
    for i, one in enumerate(made):
        ledgers[(i + 1) % routers].settle(one.reservation_id, 0.03, f"event-{one.reservation_id}")
    return _each(before, server.spent(), number)


def start(server: Server, campaigns: int, experiments: int) -> dict[str, float]:
    """Seconds to set accounts: all of them, the same again as a router that starts does, and one that changed."""
    made, found = accounts(campaigns, experiments), {}
    changed = [Account(a.arm, a.campaign, a.channel, 2e6, a.period) if a.campaign == "c0" else a for a in made]
    for name, of in (("all", made), ("again", made), ("changed", changed)):
        ledger, began = server.ledger(), time.perf_counter()
        ledger.define(of)
        found[f"{name}_seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    ledger.balances()
    return {"accounts": len(made), **found, "read_seconds": time.perf_counter() - began}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, quick="a tenth of all sizes").parse_args()
    part = 10 if options.quick else 1

    def measure(task: Any, *arguments: int) -> Any:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), **FLAGS) as port:
            return task(Server(port), *arguments)

    figures: dict[str, Any] = {
        "environment": environment("redis"),
        "memory": measure(memory, 50_000 // part),
        "decision": {
            f"{campaigns} campaigns, {routers} routers": measure(decision, campaigns, routers, 10_000 // part)
            for campaigns, routers in product((1, 100, 5_000 // part), (2, 20))
        },
        "start": measure(start, 5_000 // part, 10),
    }
    print(table(["reservation", "bytes"], [[name, f"{size:.0f}"] for name, size in figures["memory"].items()]))
    heads = list(next(iter(figures["decision"].values())))
    rows = [[of, *(f"{found[name]:.1f}" for name in heads)] for of, found in figures["decision"].items()]
    print(table(["decision", *heads], rows))
    print(table(["start", ""], [[name, f"{value:.2f}"] for name, value in figures["start"].items()]))
    finish(figures, options.json)


if __name__ == "__main__":
    main()

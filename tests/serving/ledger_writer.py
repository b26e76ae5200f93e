"""Spend money from many threads: `python ledger_writer.py LEDGER WORKER THREADS ROUNDS`.

The process starts when it reads a line from standard input. It prints the costs of its settled reservations as JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from serving.ledger import open_ledger
from serving.ledger.contract import Account, Cost, Settlement, Wanted

ACCOUNTS = [Account("a", "*", "*", 5.0), Account("a", "c1", "*", 3.0), Account("a", "*", "*", 4.5, "day")]


def main() -> None:
    where, worker, threads, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ledger = open_ledger(where, patience=60)
    ledger.define(ACCOUNTS)
    print("ready", flush=True)
    sys.stdin.readline()

    def spend(thread: int) -> dict[str, float]:
        charged = {}
        for i in range(rounds):
            # All workers and threads share every fourth reservation id.
            name = f"all-{i}" if i % 4 == 0 else f"{worker}-{thread}-{i}"
            if ledger.reserve_all([Wanted(name, "a", f"c{i % 2}", "x", 0.05)]) != [True]:
                continue
            if i % 3:
                (settled,) = ledger.settle_all([Cost(name, 0.04)])
                assert isinstance(settled, Settlement)
                charged[name] = settled.charged
                ledger.settle_all([Cost(name, 0.02)])
            # Another thread may have exposed the ad of a shared reservation.
            elif i % 4:
                ledger.cancel_all([name])
            if i % 7 == 0:
                ledger.expire(3600)
        return charged

    with ThreadPoolExecutor(threads) as pool:
        merged = {name: cost for charged in pool.map(spend, range(threads)) for name, cost in charged.items()}
    print(json.dumps(merged))


if __name__ == "__main__":
    main()

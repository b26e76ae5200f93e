"""How soon `enabled: false` is in force while the ledger works off a backlog of reservations that have expired.

    python benchmarks/kill_switch.py --run runs/latest             # of a finished `mtorl run`; needs redis-server
    python benchmarks/kill_switch.py --run runs/latest --quick     # a tenth of the reservations

The router asks its arms as usual, its ledger is a Redis that another process fills with reservations that all expire at
one moment, and a caller asks for decisions all the time. Measured is the time from the change of the experiment file to
the last answer of the challenger, without a backlog and with it; 5 s are promised.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from _environment import environment, finish

from benchmarks.request_path.servers import router

PROMISED_SECONDS = 5.0
WATCHED_SECONDS = 8.0
AT_ONCE = 256
FILL_SECONDS = 180.0


def fill(reservations: int, seconds: float) -> int:
    """Make reservations that all expire at once, so many seconds from now, and wait for that; how many there are."""
    from serving.ledger import Wanted, open_ledger
    from serving.ledger.redis_ledger import RedisLedger
    from serving.router.ops.settings import RouterSettings

    ledger = open_ledger(os.environ["MTORL_LEDGER"], 30.0)
    assert isinstance(ledger, RedisLedger)
    due = time.time() + seconds
    made = due - 3600 * RouterSettings.model_fields["reservation_ttl_hours"].default
    ledger._clock = lambda: made
    for first in range(0, reservations, AT_ONCE):
        some = range(first, min(first + AT_ONCE, reservations))
        ledger.reserve_all([Wanted(f"backlog-{i}", "challenger", "spring-sale", "video", 1e-4) for i in some])
    left = sum(name.startswith("backlog") for name in ledger.open_reservations())
    ledger.close()
    if time.time() > due:
        raise SystemExit(f"this machine needs longer than {seconds:g} s to fill the ledger: raise FILL_SECONDS")
    time.sleep(due - time.time())
    return left


def seconds_to_stop(url: str, users: list[str], experiment: Path) -> float:
    """Throw the switch; seconds until the last answer of the challenger, as a caller sees it. Then switch on again."""
    content = yaml.safe_load(experiment.read_text())
    experiment.write_text(yaml.safe_dump({**content, "enabled": False}))
    started, last, number = time.monotonic(), 0.0, 0
    while (now := time.monotonic() - started) < WATCHED_SECONDS:
        if any(answer["arm"] == "challenger" for answer in ask(url, users, f"{experiment.name}-{started}-{number}")):
            last = now
        number += 1
    experiment.write_text(yaml.safe_dump(content))
    time.sleep(2 * PROMISED_SECONDS)
    return last


def ask(url: str, users: list[str], request: str) -> list[dict[str, Any]]:
    """One decision for each user."""
    instances = [
        {
            "user_id": user,
            "campaign_id": "spring-sale",
            "request_id": f"{request}-{user}",
            "context": {"hour": 20, "device": "mobile", "placement": "feed"},
        }
        for user in users
    ]
    body = json.dumps({"instances": instances}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=10
    ) as answer:
        predictions: list[dict[str, Any]] = json.loads(answer.read())["predictions"]
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run on the simulator")
    parser.add_argument("--quick", action="store_true", help="30,000 reservations instead of 300,000")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()
    reservations = 30_000 if arguments.quick else 300_000
    with tempfile.TemporaryDirectory() as scratch, router(arguments.run.resolve(), Path(scratch), True) as path:
        experiment = Path(scratch) / "run" / "serving" / "experiment.yaml"
        users = [f"u{i:06d}" for i in range(20)]
        assert any(answer["arm"] == "challenger" for answer in ask(path.url, users, "first"))
        without = seconds_to_stop(path.url, users, experiment)
        left = fill(reservations, FILL_SECONDS if not arguments.quick else FILL_SECONDS / 5)
        under = seconds_to_stop(path.url, users, experiment)
    figures = {
        "reservations": left,
        "promised_seconds": PROMISED_SECONDS,
        "seconds": {"without a backlog": without, "with the backlog": under},
        "environment": environment("redis", "kserve"),
    }
    print(f"{left:,} reservations expired when the switch was thrown")
    for name, seconds in figures["seconds"].items():
        print(f"{name:<20} {seconds:5.2f} s to the challenger's last answer (promised: {PROMISED_SECONDS:g} s)")
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()

"""Simulate the example platform: request a decision for each user, show the ad, and report the outcomes.

    python traffic.py --days 0 1          the first two days after the log

The users are those of `make_log.py`, and their clicks depend on the ads that they see. Each request contains the choice
of the platform's own rule as `baseline`.
"""

import argparse
import datetime as dt
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import incumbent
from make_log import CLICK_PAYS, SLOTS, market

from mtorl.simulator.simulator import Online

CHANNELS = {slot: channel for channel, slot in SLOTS.items()}
TRIES = 5


class Router:
    """Client of the router, which requests decisions and reports outcomes."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._own = threading.local()  # a connection for each thread

    def decide(self, opportunity: dict[str, Any]) -> dict[str, Any]:
        """Return the router's decision on one opportunity to show an ad."""
        decision: dict[str, Any] = self._post("/v1/models/ads:predict", {"instances": [opportunity]})["predictions"][0]
        return decision

    def report(self, decision: dict[str, Any], outcomes: dict[str, float]) -> None:
        """Report the outcomes of an exposure. The reported cost replaces the money that the router has reserved."""
        now = dt.datetime.now(dt.UTC).isoformat()
        known = [
            {"event_id": f"{decision['decision_id']}-{kind}", "kind": kind, "value": value, "event_time": now}
            for kind, value in outcomes.items()
        ]
        outcome = {"outcomes": [{**one, "decision_id": decision["decision_id"]} for one in known]}
        self._post("/v1/outcomes", outcome)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post a body, and retry if the router is busy (429, 503) or the connection is lost.

        Retries are safe, because the ids in the body let the router recognise a repeated request.
        """
        for attempt in range(TRIES):
            connection = getattr(self._own, "connection", None) or HTTPConnection(self._address, timeout=30)
            self._own.connection = connection
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                text, wait = response.read().decode(), response.headers.get("Retry-After") or "0.2"
            except (OSError, HTTPException) as error:
                connection.close()
                self._own.connection, said, wait = None, f"{type(error).__name__} at {path}: {error}", "0.2"
            else:
                if response.status == 200:
                    content: dict[str, Any] = json.loads(text)
                    return content
                said = f"HTTP {response.status} from {path}: {text[:300]}"
                if response.status not in (429, 503):
                    break
            time.sleep(float(wait) * 2**attempt)
        raise SystemExit(said)


def one_opportunity(router: Router, online: Online, user: str, day: int) -> dict[str, Any]:
    """Request a decision for a user, simulate and report the user's response, and return the decision."""
    moment = online.opportunity(user, day)
    context = {name: moment["context"][name] for name in ("device", "placement")}
    decision = router.decide(
        {
            "user_id": user,
            "campaign_id": moment["campaign_id"],
            "context": context,
            "timestamp": moment["timestamp"].isoformat(),  # real requests omit it, which means now
            "request_id": f"{user}-{day}",
            "baseline": {**incumbent.decide(context), "propensity": 1.0},
        }
    )
    came = online.step(user, day, CHANNELS[decision["channel"]] if decision["expose"] else None)
    if decision["expose"]:
        outcomes = {"cost": came.cost, "click": came.click, "revenue": CLICK_PAYS * came.click}
        router.report(decision, {kind: value for kind, value in outcomes.items() if value or kind == "cost"})
    return decision


def main() -> None:
    """Simulate the days that the command line names."""
    parser = argparse.ArgumentParser(description="Play the platform.")
    parser.add_argument("--router", default="http://127.0.0.1:8080")
    parser.add_argument("--days", type=int, nargs="+", default=[0], help="days after the log, in order")
    parser.add_argument("--users", type=int, default=3000, help="of the log")
    parser.add_argument("--seed", type=int, default=11, help="of the log")
    args = parser.parse_args()
    simulator, router = market(args.users, args.seed), Router(args.router)
    online = simulator.online(simulator.user_ids, max(args.days) + 1, args.seed)
    for day in args.days:
        with ThreadPoolExecutor(8) as threads:
            one = partial(one_opportunity, router, online, day=day)
            decisions = list(threads.map(one, online.users))
        arms = Counter(
            f"{one['arm']}{' (' + one['fallback_reason'] + ')' if one['fallback_reason'] else ''}" for one in decisions
        )
        shown = sum(one["expose"] for one in decisions)
        print(
            f"day {day}: {len(decisions):,} decisions, {shown:,} ads shown;",
            ", ".join(f"{arm} {n:,}" for arm, n in sorted(arms.items())),
        )


if __name__ == "__main__":
    main()

"""Send decision requests to a router: `python caller.py ADDRESS TOKEN SECONDS PREFIX [COST]`.

Tests run this program in a pod. It prints one line of JSON per request. If COST is given, it also reports a cost and
clicks for each ad that is shown.
"""

import json
import random
import sys
import time
import urllib.error
import urllib.request

address, token, seconds, prefix, *cost = sys.argv[1:]
HEADERS = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def post(url, body):
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), HEADERS), timeout=5) as response:
        return response.status, json.load(response)


def report(decision):
    """Report the cost of an exposure, and perhaps a click; returns the ids of the events."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kinds = {"cost": float(cost[0]), "click": float(random.random() < 0.2)}
    events = [
        {"event_id": f"{decision}-{kind}", "decision_id": decision, "kind": kind, "value": value, "event_time": at}
        for kind, value in kinds.items()
    ]
    for _ in range(120):
        try:
            post(f"{address.partition('/v1/')[0]}/v1/outcomes", {"outcomes": events})
            return [event["event_id"] for event in events]
        except OSError:
            time.sleep(0.5)
    return []


end = time.monotonic() + float(seconds)
number = 0
while time.monotonic() < end:
    number += 1
    instance = {
        "user_id": f"u{number % 400:06d}",
        "campaign_id": "spring-sale",
        "request_id": f"{prefix}-{number}",
        "context": {
            "hour": random.randrange(24),
            "device": random.choice(("mobile", "mobile", "desktop")),
            "placement": random.choice(("feed", "article", "sidebar", "story")),
        },
    }
    try:
        status, said = post(address, {"instances": [instance]})
        decision = said["predictions"][0]
        if cost and decision["expose"]:
            decision["reported"] = report(decision["decision_id"])
    except urllib.error.HTTPError as error:
        status, decision = error.code, {"said": error.read().decode(), "retry_after": error.headers.get("Retry-After")}
    except (OSError, ValueError) as error:
        status, decision = 0, {"said": str(error)}
    asked = {name: instance[name] for name in ("request_id", "user_id", "campaign_id")}
    print(json.dumps({**asked, "status": status, **decision}), flush=True)
    time.sleep(0.05 if status == 200 else 0.5)

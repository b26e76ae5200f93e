"""Adapter between the router and a service whose answers have another format (docs/incumbent.md)."""

import json
import urllib.request

from incumbent_server import main

OURS = "http://127.0.0.1:8060/ads"  # the service


def answer(item):
    """Return the service's decision for one item, in the format that the router expects."""
    asked = {"uid": item["user_id"], "device": item["context"]["device"], "slots": item["candidates"]}
    request = urllib.request.Request(OURS, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=0.1) as said:
        ad = json.load(said)["ad"]
    return {"channel": ad["slot"], "expose": ad["show"] == 1}


if __name__ == "__main__":
    main(answer)

"""A caller, run by the router's own image in a pod of the gateway's namespace: asks for decisions for some seconds.

    python caller.py ADDRESS TOKEN SECONDS PREFIX

prints a JSON line for each request: its id, user and campaign, the HTTP status (0 if nobody answered), and the decision
or what was said.
"""

import json
import sys
import time
import urllib.error
import urllib.request

address, token, seconds, prefix = sys.argv[1:]
end = time.monotonic() + float(seconds)
number = 0
while time.monotonic() < end:
    number += 1
    instance = {
        "user_id": f"u{number % 200:06d}",
        "campaign_id": "spring-sale",
        "request_id": f"{prefix}-{number}",
        "context": {"hour": 20, "device": "mobile", "placement": "feed"},
    }
    request = urllib.request.Request(
        address,
        data=json.dumps({"instances": [instance]}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            status, decision = response.status, json.load(response)["predictions"][0]
    except urllib.error.HTTPError as error:
        status, decision = error.code, {"said": error.read().decode(), "retry_after": error.headers.get("Retry-After")}
    except (OSError, ValueError) as error:
        status, decision = 0, {"said": str(error)}
    asked = {name: instance[name] for name in ("request_id", "user_id", "campaign_id")}
    print(json.dumps({**asked, "status": status, **decision}), flush=True)
    time.sleep(0.05 if status == 200 else 0.5)

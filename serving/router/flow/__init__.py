"""Turns a request into a decision. This package does not depend on HTTP.

In reading order: `decider.py` (all steps of a decision, and the threads of each arm), `stages.py` (the four stages,
each of which calls a store or an arm through a circuit breaker, and the shadow), `pending_decision.py` (a decision in
progress, its record and answer), `requests.py` (parsing), `features.py` (features of a user), `arms.py` (calls to
policies, their answers, and probes) with `arm_client.py` (HTTP), `budgets.py` (reservations, and reports of outcomes),
`idempotency_cache.py` (retries of a request), `admission.py` (limit of requests in flight, and their deadline).
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # must come before any import of Feast

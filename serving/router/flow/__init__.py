"""Turns a request into a decision, without HTTP.

In reading order: `decider.py` (the whole way of a decision, and the threads of an arm), `stages.py` (the four stages,
each a call of a part with a circuit breaker, and the shadow), `pending_decision.py` (a decision in progress, its record
and answer), `requests.py` (parsing), `features.py` (features of a user), `arms.py` (calls to policies, their answers,
and probes) with `arm_client.py` (HTTP), `budgets.py` (reservations, and reports of outcomes), `idempotency_cache.py`
(retries of a request), `admission.py` (limit of requests in flight, and their deadline).
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast

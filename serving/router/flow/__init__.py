"""From a request to a decision, without HTTP.

In reading order: `decider.py` (what happens to a decision, top to bottom), `requests.py` (parsing),
`pending_decision.py` (a decision in progress, its record and answer), `lane.py` (the threads of an arm), `parts.py` (a
call of a part: circuit breaker, spans, drills), `features.py` (features of a user), `arms.py` (calls and probes of the
policies) with `arm_client.py` (HTTP) and `arm_answers.py` (their answers, and policies without a server), `shadow.py`
(stage `shadow`), `budgets.py` (money, and reports of outcomes), `pacer.py` (prices of budgets; that of one account
is in `mtorl/experiment/paced_account.py`), `idempotency_cache.py` (retries of a request), `admission.py` (limit of
requests in flight, and their deadline).
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast

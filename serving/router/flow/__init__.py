"""From a request to a decision, without HTTP.

In reading order: `decider.py` (begin and end of a decision), `requests.py` (parsing), `pending_decision.py` (a decision
in progress), `lane.py` (its threads), `pipeline.py` (its stages), `features.py` (features of a user), `arms.py` (calls
of the policies) with `arm_client.py` (HTTP), `arm_answers.py` (their answers), `local_policies.py` (policies without a
server), `arm_watch.py` (probes) and `arm_check.py` (`mtorl arm check`), `shadow.py` (stage `shadow`), `budgets.py`
(money) with `ledger_of_log.py` (a lost ledger), `pacer.py` (prices of budgets) and `paced_account.py` (that of one
account), `stages.py` (time limits and circuit breakers), `drills.py` (injected faults), `idempotency_cache.py` (retries
of a request), `admission.py` (limit of requests in flight), `outcomes.py` (reports of outcomes).
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast

"""From a request to a decision, without HTTP.

In reading order: `decider.py` (how a decision begins and ends), `requests.py` (what a request may hold),
`pending_decision.py` (a decision on its way), `lane.py` (the threads that take it there), `pipeline.py` (its stages),
`features.py` (what is known of a user) with `feature_registry.py`, `arms.py` (the policies) with `arm_client.py` (HTTP
to them), `arm_answers.py` (what one may say), `local_policies.py` (those that need no server), `arm_models.py` (which
model answers), `arm_faults.py` (what is wrong with answers), `arm_watch.py` (whether there are any) and `arm_check.py`
(whether an endpoint can be an arm), `shadow.py` (what challengers would have done), `budgets.py` (money) with
`ledger_of_log.py` (no fresh budget after a loss), `pacer.py` (prices of budgets) and `paced_state.py` (what all routers
keep of them), `stages.py` (time limits and failures of a stage), `drills.py` (injected faults), `idempotency_cache.py`
(retries of a request), `admission.py` (how many requests at once), `outcomes.py` (what became of a decision).
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast

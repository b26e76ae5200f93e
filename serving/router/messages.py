"""Texts of the router's error and status messages."""

from mtorl.runtime.message import Words

NOT_AUTHENTICATED = Words("not-authenticated", "No valid token. Send the header Authorization: Bearer TOKEN.")
REQUEST_ID_REUSED = Words("request-id-reused", "{where}: another request has this request_id. Use a new one.")
BODY_TOO_LARGE = Words("body-too-large", "The body has more than {most} bytes (setting max_body_bytes). Send less.")
BODY_INCOMPLETE = Words("body-incomplete", "The connection was closed before the body was complete.")
NOT_STORED = Words("not-stored", "The outcomes are not stored. Send all of them again: {error}")
NOT_ALLOWED = Words("method-not-allowed", "{method} is not allowed here. Use {allowed}.")
NO_DRILLS = Words("no-drills", "Fault injection is off. The setting `drills: true` allows it.")

STARTING = Words("starting", "The router is starting.")
OPENING = Words("opening", "The router is opening {folder}.")
NO_REGISTRY = Words("no-registry", "No feature registry at {file} yet. Run mtorl-bootstrap or mtorl-train.")
REGISTRY_UNFINISHED = Words("registry-unfinished", "The feature registry at {file} is being written.")
NO_EXPERIMENT = Words("no-experiment", "No experiment is active: {faults}")

NO_ANSWER = Words("no-answer", "no answer for {seconds:.0f} s: {cause}")
ARM_ANSWERS = Words("arm-answers", "{error}")
MODEL_CHANGED = Words("model-changed", "model {now} since {since}, {before} before: the verdict judges only the newest")
LOG_ENDED = Words("log-ended", "The thread of the decision log has stopped. Restart the router.")
EXPERIMENT_REFUSED = Words("experiment-refused", "{faults}. The previous version stays active.")
NOT_KEPT = Words("experiment-not-kept", "active, but a restart would lose it: {error}")
BUDGETS_DIFFER = Words("budgets-differ", "{difference}: the smallest amount counts")

"""Requests a training if the model's inputs have changed, or its predictions no longer fit.

    update_request(state, end)

The new model must pass the same gate as every nightly model. The request ends once columns are compared with another
model's training sample.
"""

from datetime import datetime, timedelta

from monitoring.watch.state import RetrainRequest, State
from monitoring.watch.stream_names import COLUMNS, labels_of

COOL_DOWN = timedelta(days=7)  # from one request to the next
_REASONS = (COLUMNS, "performance")  # groups: the model's inputs, and outcomes against predictions


def update_request(state: State, end: datetime) -> None:
    """Request a training if there is a reason, or withdraw a settled request; `end` is that of the newest period."""
    if state.retrain is not None and state.retrain.model_version != state.model_version:
        state.retrain = None
    changed = [alarm.text for name, alarm in state.alarms().items() if alarm.kind == "drift" and _asks(name)]
    rested = state.requested is None or end - state.requested >= COOL_DOWN
    if state.retrain is None and changed and rested and state.model_version:
        state.retrain = RetrainRequest(since=end, reason="; ".join(changed), model_version=state.model_version)
        state.requested = end


def _asks(stream: str) -> bool:
    return labels_of(stream).group in _REASONS


def due_because(state: State, trained: datetime | None, most_days: float, now: datetime) -> str:
    """The reason why a training is due after the newest one, which began at `trained`; "" if none is due.

    A training after a request settles the request even if the gate rejects the model, since another training on the
    same log would give the same model. With a `most_days` of 0, age is no reason.
    """
    if trained is None:
        return "there was none yet"
    if state.retrain is not None and state.retrain.since > trained:
        return f"the monitor requests it: {state.retrain.reason}"
    days = (now - trained).total_seconds() / 86_400
    return f"the newest is {days:.1f} days old" if most_days and days > most_days else ""

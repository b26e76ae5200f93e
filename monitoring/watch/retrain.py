"""Requests for a new training, made when what the model reads or predicts has changed.

    update_request(state, end)

The new model passes the same gate as every night's. The request is over once columns are compared with another model's
training sample.
"""

from datetime import datetime, timedelta

from monitoring.watch.state import RetrainRequest, State
from monitoring.watch.stream_names import COLUMNS, labels_of

COOL_DOWN = timedelta(days=7)  # from one request to the next
_REASONS = (COLUMNS, "performance")  # groups: the model's inputs, and outcomes against predictions


def update_request(state: State, end: datetime) -> None:
    """Request a retraining if there is a reason, or withdraw the request; `end` of the newest judged period."""
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
    """Give the reason for a training after the newest one, which began at `trained`; "" if none is due.

    A training after a request settles it, also if the gate rejects the model: the same log makes the same model. A
    `most_days` of 0 makes age no reason.
    """
    if trained is None:
        return "there was none yet"
    if state.retrain is not None and state.retrain.since > trained:
        return f"the monitor asks for it: {state.retrain.reason}"
    days = (now - trained).total_seconds() / 86_400
    return f"the newest is {days:.1f} days old" if most_days and days > most_days else ""

"""Requests a training when the model's inputs have changed, or its predictions no longer fit."""

from datetime import datetime, timedelta

from monitoring.watch.state import RetrainRequest, State
from monitoring.watch.stream_names import COLUMNS, labels_of

# Minimum time between two requests.
COOL_DOWN = timedelta(days=7)
# A change in these groups of streams requests a training.
_REASONS = (COLUMNS, "performance")


def update_request(state: State, end: datetime) -> None:
    """Request a training if there is a reason. Delete an old request once a new model has replaced the old one."""
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
    """Return the reason why a training is due; "" if none is due.

    A request of the monitor is fulfilled by any later training, even if the gate rejected the new model: a further
    training on the same log would give the same model.

    Args:
        trained: Start of the newest training; None if there was none.
        most_days: Largest age of the newest training in days; 0 for no limit.
    """
    if trained is None:
        return "there was none yet"
    if state.retrain is not None and state.retrain.since > trained:
        return f"the monitor requests it: {state.retrain.reason}"
    days = (now - trained).total_seconds() / 86_400
    return f"the newest is {days:.1f} days old" if most_days and days > most_days else ""

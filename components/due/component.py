"""Decides whether a training is due: the monitor requests it, or the newest training is too old or missing."""

from components.component import component


# Not cached, because the monitor's state and the clock change while the parameters stay the same.
@component("check whether a training is due", cached=False)
def due(history: str, monitor: str, most_days: float) -> str:
    """Return "yes" or "no". The words are fixed, because kfp.local inserts the text into a condition unchanged.

    The reason is in the step's log.

    Args:
        monitor: Folder of the monitor's state; "" for none.
        most_days: Age of the newest training, in days, at which the next training is due; 0 ignores the age.
    """
    from datetime import UTC, datetime
    from pathlib import Path

    from monitoring.watch.retrain import due_because
    from monitoring.watch.state import STATE_FILE, State
    from mtorl.log.trainings import newest
    from mtorl.runtime.step import step

    with step():
        last = newest(Path(history))
        state = State.read(Path(monitor) / STATE_FILE) if monitor else State()
        reason = due_because(state, last.at if last else None, most_days, datetime.now(UTC))
        print(f"a training is due: {reason}" if reason else "no training is due")
        return "yes" if reason else "no"

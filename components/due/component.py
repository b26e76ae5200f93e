"""Decides whether a model should be trained now: the monitor requests it, or the newest training is too old."""

from components.component import component


# The monitor's state and the clock change although the parameters stay the same.
@component("check whether a training is due", cached=False)
def due(history: str, monitor: str, most_days: float) -> str:
    """Return "yes" if a training is due, otherwise "no"; the reason is in the step's log.

    A training is also due if there was none before. The result is one of two fixed words, because kfp.local inserts it
    unchanged into a condition of the pipeline.

    Args:
        monitor: Folder of the monitor's state; "" if there is no monitor.
        most_days: Age of the newest training, in days, at which the next one is due; 0 ignores the age.
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

"""Forecasts whether the budget of an experiment lasts until its ramp ends."""

from collections.abc import Sequence

from monitoring import messages
from monitoring.experiments.document import Spend
from mtorl.experiment.arm import ALL_ARMS
from mtorl.experiment.stage_machine import STAGES, State, stages_to_come
from mtorl.experiment.stages import Ramp
from mtorl.runtime.message import Message

# Warn at once if less than this share of a total budget is left.
_LITTLE = 0.1
# Forecast only after this share of the budget is spent.
_HALF = 0.5
# Forecast only after this many hours, because traffic varies over the day.
_TOLD_AFTER = 24.0


def short_of_money(
    spend: Sequence[Spend], started: float | None, ramp: Ramp | None, state: State, now: float
) -> Message | None:
    """Return a warning if a total budget is nearly spent, or will run out before the ramp ends.

    Args:
        started: Time at which the experiment was started, in seconds since 1970.
        ramp: The planned stages; None if a person chooses them.
    """
    if state.phase not in STAGES or started is None:
        return None
    passed, needed = (now - started) / 3600, _hours_to_come(ramp, state, now)
    for account in spend:
        if account["arm"] != ALL_ARMS or account["period"] != "total" or account["limit"] <= 0:
            continue
        left = max(0.0, account["limit"] - account["spent"] - account["reserved"])
        scope = [account[name] for name in ("campaign", "channel") if account[name] != "*"]
        of = f" of {', '.join(scope)}" if scope else ""
        money = {"left": left, "limit": account["limit"], "of": of}
        if left < _LITTLE * account["limit"]:
            return messages.MONEY_LOW(**money)
        lasts = left * passed / account["spent"] if account["spent"] > 0 else needed
        if passed >= _TOLD_AFTER and left < _HALF * account["limit"] and lasts < needed:
            return messages.MONEY_SHORT(**money, lasts=lasts, needed=needed)
    return None


def _hours_to_come(ramp: Ramp | None, state: State, now: float) -> float:
    hours = sum(step.hours for step in stages_to_come(ramp, state))
    here = next((step.hours for step in ramp.stages if step.stage == state.phase), 0.0) if ramp is not None else 0.0
    return hours + max(0.0, here - (now - (state.since or now)) / 3600)

"""Answers of the probes.

    GET /health/live      200 while the event loop turns; otherwise the pod should be restarted
    GET /health/ready     200 while requests may come: decisions can be made, not draining, the log's thread alive

Until decisions can be made, `ready` answers 503 with the reason: a missing feature registry, a long decision log. A
restart would not help, so `live` is 200 meanwhile.

If a store or an arm does not answer, the router stays ready and answers with the default action: taking all replicas
out of service at once would not help. The body names the part:

    {"ready": true, "parts": {"ledger": "ok", "features": "ok", "challenger": "no answer for 12 s: TimeoutError"},
     "experiments": {"spring": "5f1c3a9e"}}
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor, inf
from time import monotonic
from typing import Any, NamedTuple

from mtorl.experiment.arm import ALL_ARMS, OVERRIDE
from serving.ledger.contract import Balance

_STALE_SECONDS = 30.0  # without a sign of life, the event loop hangs
_CLOCKS_DIFFER = 60.0  # seconds; this clock and that of a shared ledger
_FEW = 20  # exposures of the dearest channel; an arm that can pay for less is starved of it
_SPELLED = {"total": "in all", "day": "a day", "hour": "an hour"}


class Fault(NamedTuple):
    """Why a part does not answer, and since when (`time.monotonic`)."""

    since: float
    error: Exception

    @property
    def seconds(self) -> float:
        """Time since then."""
        return monotonic() - self.since


class Health:
    """Collects reports of the parts."""

    def __init__(self) -> None:
        self.waiting_for = "the router is starting"  # why no decisions can be made yet; empty once they can
        self.draining = False  # the router is about to end
        self.experiments: Mapping[str, str] = {}  # version of each that decisions are made by, with its accounts
        self._tick = monotonic()
        self._faults: dict[str, Fault | None] = {}
        self._heard: dict[str, float] = {}
        self._notes: dict[str, str] = {}

    @property
    def started(self) -> bool:
        """Whether decisions can be made."""
        return not self.waiting_for

    @property
    def parts(self) -> dict[str, str]:
        """Part -> "ok", or what is wrong with it."""
        answers = {
            part: f"no answer for {fault.seconds:.0f} s: {type(fault.error).__name__}" if fault else "ok"
            for part, fault in dict(self._faults).items()  # a copy: threads may add some
        }
        return answers | {part: note for part, note in dict(self._notes).items() if answers.get(part, "ok") == "ok"}

    def tick(self) -> None:
        """Note that the event loop turns."""
        self._tick = monotonic()

    def report(self, part: str, error: Exception | None = None) -> None:
        """Note that a part answered, or did not."""
        now = self._heard[part] = monotonic()
        before = self._faults.get(part)
        self._faults[part] = Fault(before.since if before else now, error) if error else None

    def note(self, part: str, text: str = "ok") -> None:
        """Set the message of a part that answers; "ok" clears it."""
        self._notes[part] = text

    def fault(self, part: str) -> Fault | None:
        """Why a part does not answer; None if it does."""
        return self._faults.get(part)

    def quiet(self, part: str) -> float:
        """Seconds since the last report on a part, good or bad."""
        return monotonic() - self._heard.get(part, -inf)

    def forget(self, part: str) -> None:
        """Drop the reports on a part that is gone, or is another one now."""
        for known in (self._faults, self._heard, self._notes):
            known.pop(part, None)

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether the event loop turns, and the probe's body."""
        quiet = monotonic() - self._tick
        return quiet < _STALE_SECONDS, {"seconds_since_housekeeping": round(quiet, 1)}

    def ready(self, log_alive: Callable[[], bool]) -> tuple[bool, dict[str, Any]]:
        """Whether requests may come, and the probe's body; `log_alive` is called once decisions can be made."""
        if not self.started:
            return False, {"ready": False, "waiting_for": self.waiting_for}
        alive = log_alive()
        good = alive and not self.draining
        parts = {"decision_log": "ok"} | self.parts | ({} if alive else {"decision_log": "its thread has ended"})
        experiments = dict(self.experiments)
        return good, {"ready": good, "draining": self.draining, "parts": parts, "experiments": experiments}


def concerns(balances: Sequence[Balance], now: float, cost_cap: Mapping[str, float]) -> list[str]:
    """Warnings for people: budgets that take no or few reservations at `now` (seconds since 1970), and why."""
    found = []
    overspent = {
        (b.campaign, b.channel, b.period) for b in balances if b.arm == ALL_ARMS and b.spent + b.reserved > b.limit
    }
    for b in balances:
        budget = b.campaign, b.channel, b.period
        name = f"campaign {b.campaign}, channel {b.channel}, {b.period}"
        if b.arm == ALL_ARMS:
            if budget in overspent:
                amounts = f"{b.spent:g} spent and {b.reserved:g} reserved of an amount of {b.limit:g}"
                found.append(f"{name}: {amounts}: nobody is exposed")
            if b.start > now + _CLOCKS_DIFFER:
                found.append(f"{name}: a clock was ahead, and this period has begun too early: its money must last")
            continue
        caps = [(cap, channel) for channel, cap in cost_cap.items() if b.channel in ("*", channel)]
        if budget in overspent or not caps or b.limit <= b.spent + b.reserved:  # the last: as of an arm that is off
            continue
        cap, dearest = max(caps)
        if b.limit < _FEW * cap:
            shown = f"pays for {floor(b.limit / cap)} exposures of {dearest} ({cap:g} each)"
            advice = "raise the amount" + ("" if b.arm.endswith(f"/{OVERRIDE}") else ", or ramp up faster")
            found.append(f"{name}, arm {b.arm}: {b.limit:g} {_SPELLED[b.period]} {shown}: {advice}")
    return found

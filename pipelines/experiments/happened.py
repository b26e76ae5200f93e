"""What has happened to an experiment, in words: `kubectl describe` shows the history itself as it is stored.

happened(events)          # the newest ones, a line each, for an object's status
in_words(event)           # "5% by the ramp: 24 hours at shadow are over, ..."
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mtorl.experiment.history import Event

_NEWEST = 10
"""Events that are told: an object has room for thousands, and nobody reads so many."""
_BY = {"ramp": "the ramp", "person": "a person"}


def happened(events: Sequence[Event]) -> list[str]:
    """The newest events of a history with what was known then, a line each, the newest first."""
    return [
        f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%d %H:%M} UTC: {in_words(event)}{_known(event.evidence)}"
        for event in reversed(events[-_NEWEST:])
    ]


def in_words(event: Event) -> str:
    """What happened, who brought it about, and why."""
    who = f" {event.challenger}" if event.challenger is not None else ""
    return f"{event.to or event.kind}{who} by {_BY[event.by]}: {event.reason}"


def _known(evidence: Mapping[str, Any] | None) -> str:
    """What was known then, as far as it was; empty: nobody asked."""
    if evidence is None:
        return ""
    said = [f"{evidence['token']}, {evidence['reason']}"]
    said += (f"{name}: {', '.join(_of_arm(arm))}" for name, arm in evidence["arms"].items())
    return f" (known then: {'; '.join(said)})"


def _of_arm(arm: Mapping[str, Any]) -> Iterator[str]:
    yield f"{arm['users']:,} {'user' if arm['users'] == 1 else 'users'} at the stage"
    yield f"{arm['fallback_ratio']:.1%} default actions"
    if arm["latency_seconds"] is not None:
        yield f"{1000 * arm['latency_seconds']:,.0f} ms at the 99th percentile"

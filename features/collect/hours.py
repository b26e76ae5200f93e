"""A period of whole hours, from the times that a person gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mtorl.log.touchpoints import LogError

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Hours:
    """Hours that begin in a period, from the beginning of the first to the end of the last."""

    since: datetime
    until: datetime

    @classmethod
    def named(cls, since: str, until: str) -> Hours:
        """The hours that overlap a period, given as ISO times (UTC without a zone); `until` is exclusive."""
        first, last = (_time(name, text) for name, text in (("since", since), ("until", until)))
        if first >= last:
            raise LogError(f"since {since} is not before until {until}: nothing lies between them")
        begun = last.replace(minute=0, second=0, microsecond=0)
        return cls(first.replace(minute=0, second=0, microsecond=0), begun if begun == last else begun + HOUR)

    def __contains__(self, hour: datetime) -> bool:
        return self.since <= hour < self.until


def _time(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise LogError(f"{name}: {text!r} is not an ISO time such as 2026-01-31T12:00:00Z") from None

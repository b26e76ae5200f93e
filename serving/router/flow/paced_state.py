"""State of the pacing controllers that all routers share, as text in the ledger."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from mtorl.experiment.budget import AccountLimit
from mtorl.policy.pacing import State

log = logging.getLogger(__name__)

_FORGET_SECONDS = 62 * 86_400.0  # since an account was last paced

COUNTED = -1.0
"""In place of the beginning of a period: the clock is the number of opportunities."""
Name = tuple[str, str, str, str]  # arm, campaign, channel, period


@dataclass(frozen=True)
class Kept:
    """State of one account in one period.

    Attributes:
        state: The controller's, after the last update.
        terms: Limit, part and pacing that the plan was made for.
        since: When the plan begins, by its clock.
        before: Currency units spent by then.
        touched: Last update, seconds since 1970.
    """

    state: State
    terms: str
    since: float
    before: float
    touched: float

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.since, self.before, self.touched))) or not isinstance(self.terms, str):
            raise ValueError(f"since, before and touched must be finite, terms a text, got {self}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rest = {"terms": self.terms, "since": self.since, "before": self.before, "touched": self.touched}
        return {**vars(self.state), **rest}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Kept:
        """Read what :meth:`to_dict` wrote."""
        own = {name: values[name] for name in ("terms", "since", "before", "touched")}
        return cls(State(**{name: value for name, value in values.items() if name not in own}), **own)


class PacedState:
    """All accounts by `key`, also those not paced at present: another router may have another experiment in force."""

    def __init__(self, kept: Mapping[str, Kept]) -> None:
        self.kept = dict(kept)
        self._of: dict[Name, list[tuple[float, Kept]]] = {}
        for text, one in self.kept.items():
            *name, began = json.loads(text)
            self._of.setdefault(tuple(name), []).append((began, one))

    @staticmethod
    def key(limit: AccountLimit, began: float) -> str:
        """The key of an account in the period that began then (or COUNTED)."""
        return json.dumps([limit.arm, limit.campaign, limit.channel, limit.period, began])

    @classmethod
    def parse(cls, text: str) -> PacedState:
        """Read what :meth:`text` wrote; a damaged text is an empty state."""
        try:
            return cls({key: Kept.from_dict(value) for key, value in json.loads(text or "{}").items()})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            log.warning("pacing begins anew from the first price: what the ledger remembers can't be read: %r", error)
            return cls({})

    def text(self) -> str:
        """For the ledger."""
        return json.dumps({key: one.to_dict() for key, one in self.kept.items()})

    def last(self, limit: AccountLimit) -> Kept | None:
        """The newest period of an account."""
        periods = self._of.get((limit.arm, limit.campaign, limit.channel, limit.period))
        return max(periods, key=lambda period: period[1].touched)[1] if periods else None

    def counts(self) -> dict[tuple[str, str], float]:
        """Opportunities of each counted budget, by campaign and channel, over all arms that it ever had."""
        sums: dict[tuple[str, str], float] = {}
        for (_, campaign, channel, _), periods in self._of.items():
            had = sum(one.state.at for began, one in periods if began == COUNTED)
            sums[campaign, channel] = sums.get((campaign, channel), 0.0) + had
        return sums

    def after(self, updated: Mapping[str, Kept], now: float) -> PacedState:
        """With new states; earlier periods of the same accounts go, and accounts not paced for long."""
        names = {tuple(json.loads(key)[:4]) for key in updated}
        stays = {
            key: one
            for key, one in self.kept.items()
            if one.touched > now - _FORGET_SECONDS and tuple(json.loads(key)[:4]) not in names
        }
        return PacedState({**stays, **{key: replace(one, touched=now) for key, one in updated.items()}})

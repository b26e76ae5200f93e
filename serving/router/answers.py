"""A request that comes again gets the answer that it got before: what was answered lately, by decision id.

A caller that saw a connection break can't know whether its request was decided on. It asks again with the same
request id: the decision's id follows from it (`draft.py`), so the ledger reserves once, whichever router is asked, and
the router that took the decision repeats its answer: from memory, or, after a crash, from its log.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

Prediction = dict[str, Any]

_COPIED = (
    *("decision_id", "request_id", "experiment", "arm", "channel", "expose", "propensity"),
    *("expected_reward", "expected_cost", "reservation_id", "budget_exhausted", "fallback_reason"),
)
MOST = 50_000  # answers that are remembered: a minute of a busy router


class Answers:
    """For one event loop."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, Prediction] = OrderedDict()
        self._coming: dict[str, asyncio.Future[Prediction]] = {}

    def load(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Remember what the log says was answered.

        Args:
            records: Decisions, oldest first; of two records of a decision the later one stands.
        """
        for record in records:
            if record["request_id"] is not None:
                self._remember(record["decision_id"], prediction_of(record))

    def repeat(self, decision_id: str) -> asyncio.Future[Prediction] | None:
        """The answer of a decision that was taken, or is being taken; None if it never was."""
        if decision_id in self._coming:
            return self._coming[decision_id]
        if decision_id not in self._given:
            return None
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        answer.set_result(self._given[decision_id])
        return answer

    def begin(self, decision_id: str) -> None:
        """A decision is being taken: who asks for it meanwhile waits."""
        self._coming[decision_id] = asyncio.get_running_loop().create_future()

    def give(self, decision_id: str, answer: Prediction) -> None:
        """It is taken."""
        self._remember(decision_id, answer)
        self._coming.pop(decision_id).set_result(answer)

    def drop(self, decision_id: str) -> None:
        """It was not taken, because its request was given up; who waits has been given up as well, or asks anew."""
        if (waiting := self._coming.pop(decision_id, None)) is not None:
            waiting.cancel()

    def _remember(self, decision_id: str, answer: Prediction) -> None:
        self._given[decision_id] = answer
        if len(self._given) > MOST:
            for oldest in list(islice(self._given, len(self._given) - MOST)):
                del self._given[oldest]


def prediction_of(record: Mapping[str, Any]) -> Prediction:
    """The answer to a decision, from its record in the log."""
    model = {key: record.get(f"model_{key}") for key in ("name", "version", "digest")}
    return {**{name: record[name] for name in _COPIED}, "model": model if model["name"] else None}

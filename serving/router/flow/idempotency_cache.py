"""A request that comes again gets the answer that it got before.

A caller whose connection broke can't know whether its request was decided on. It asks again with the same request id.
The router that took the decision repeats its answer, from memory or, after a crash, from its log. A request that it no
longer remembers, or that another router took, is decided anew: another decision with an id of its own, for which the
ledger refuses to pay a second time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from mtorl.log.records import V1Answer
from serving.router.flow.requests import DecisionRequest

Prediction = dict[str, Any]

MOST = 50_000  # answers that are remembered: a minute of a busy router
SECONDS = 600.0  # for which they are: far less than a reservation lasts, so that a repeated exposure is still paid for


def request_key(salt: str, request: DecisionRequest) -> str | None:
    """Equal for two requests that are the same one: same id, user and campaign. None without an id."""
    if request.request_id is None:
        return None
    return _key(salt, request.user_id, request.campaign_id, request.request_id)


class IdempotencyCache:
    """Recent answers, and requests that are being decided. For one event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[float, Prediction]] = OrderedDict()
        self._keys: dict[str, str] = {}  # decision -> request
        self._pending: dict[str, asyncio.Future[Prediction]] = {}

    def __len__(self) -> int:
        """Answers that are remembered."""
        return len(self._answers)

    @property
    def in_progress(self) -> int:
        """Requests that are being decided."""
        return len(self._pending)

    def load(self, salt: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Remember the answers that the log holds.

        Args:
            salt: Of the experiment in force.
            records: Decisions, oldest first; of two records of a decision the later one counts.
        """
        for record in records:
            if record["request_id"] is not None:
                age = time.time() - datetime.fromisoformat(record["event_time"]).timestamp()
                key = _key(salt, record["user_id"], record["campaign_id"], record["request_id"])
                self._remember(key, time.monotonic() - max(age, 0.0), prediction_of(record))

    def repeat(self, key: str) -> asyncio.Future[Prediction] | None:
        """The answer to a request that was decided lately, or is being decided; None: it is new."""
        if key in self._pending:
            return self._pending[key]
        answered, answer = self._answers.get(key, (-SECONDS, {}))
        if not answer or time.monotonic() - answered > SECONDS:
            return None
        repeated: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        repeated.set_result(answer)
        return repeated

    def begin(self, key: str) -> None:
        """A request is being decided: one that comes meanwhile waits for its answer."""
        self._pending[key] = asyncio.get_running_loop().create_future()

    def give(self, key: str, answer: Prediction) -> None:
        """The request is decided."""
        self._remember(key, time.monotonic(), answer)
        self._pending.pop(key).set_result(answer)

    def forget(self, decision_id: str) -> None:
        """The exposure was given back: the request, if it comes again, is decided anew."""
        if (key := self._keys.pop(decision_id, None)) is not None:
            self._answers.pop(key, None)

    def _remember(self, key: str, answered: float, answer: Prediction) -> None:
        self._answers[key] = answered, answer
        self._answers.move_to_end(key)
        self._keys[answer["decision_id"]] = key
        while len(self._answers) > MOST:
            _, (_, oldest) = self._answers.popitem(last=False)
            self._keys.pop(oldest["decision_id"], None)


def prediction_of(record: Mapping[str, Any]) -> Prediction:
    """The answer to a decision, from its record in the log, which knows a model by its digest, not by its version."""
    model = {"name": record["model_name"], "version": None, "digest": record["model_digest"]}
    return {**{name: record[name] for name in V1Answer.__annotations__}, "model": model if model["name"] else None}


def _key(*parts: str) -> str:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()

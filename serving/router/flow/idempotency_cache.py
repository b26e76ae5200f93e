"""A request that comes again gets the answer that it got before.

A caller that saw a connection break can't know whether its request was decided on. It asks again with the same request
id. The router that took the decision repeats its answer, from memory or, after a crash, from its log. What it no longer
knows, or another router took, is decided anew: as another decision with an id of its own, which the ledger refuses to
pay for a second time.
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
SECONDS = 600.0  # for which one is: far less than a reservation lives, so that what is repeated is still paid for


def request_key(salt: str, request: DecisionRequest) -> str | None:
    """What makes two requests the same one: their id, of a user in a campaign; None without an id."""
    if request.request_id is None:
        return None
    return _key(salt, request.user_id, request.campaign_id, request.request_id)


class IdempotencyCache:
    """What was answered lately, and what is being decided. For one event loop."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, tuple[float, Prediction]] = OrderedDict()
        self._keys: dict[str, str] = {}  # decision -> request
        self._coming: dict[str, asyncio.Future[Prediction]] = {}

    def load(self, salt: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Remember what the log says was answered.

        Args:
            salt: Of the experiment in force.
            records: Decisions, oldest first; of two records of a decision the later one stands.
        """
        for record in records:
            if record["request_id"] is not None:
                age = time.time() - datetime.fromisoformat(record["event_time"]).timestamp()
                key = _key(salt, record["user_id"], record["campaign_id"], record["request_id"])
                self._remember(key, time.monotonic() - max(age, 0.0), prediction_of(record))

    def repeat(self, key: str) -> asyncio.Future[Prediction] | None:
        """The answer to a request that was decided lately, or is being decided; None if it has to be."""
        if key in self._coming:
            return self._coming[key]
        given, answer = self._given.get(key, (-SECONDS, {}))
        if not answer or time.monotonic() - given > SECONDS:
            return None
        found: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        found.set_result(answer)
        return found

    def begin(self, key: str) -> None:
        """A request is being decided: who asks for it meanwhile waits."""
        self._coming[key] = asyncio.get_running_loop().create_future()

    def give(self, key: str, answer: Prediction) -> None:
        """It is decided."""
        self._remember(key, time.monotonic(), answer)
        self._coming.pop(key).set_result(answer)

    def forget(self, decision_id: str) -> None:
        """Its exposure was given back: who asks again is decided anew."""
        if (key := self._keys.pop(decision_id, None)) is not None:
            self._given.pop(key, None)

    def _remember(self, key: str, given: float, answer: Prediction) -> None:
        self._given[key] = given, answer
        self._given.move_to_end(key)
        self._keys[answer["decision_id"]] = key
        while len(self._given) > MOST:
            _, (_, oldest) = self._given.popitem(last=False)
            self._keys.pop(oldest["decision_id"], None)


def prediction_of(record: Mapping[str, Any]) -> Prediction:
    """The answer to a decision, from its record in the log, which knows a model by its digest, not by its version."""
    model = {"name": record["model_name"], "version": None, "digest": record["model_digest"]}
    return {**{name: record[name] for name in V1Answer.__annotations__}, "model": model if model["name"] else None}


def _key(*parts: str) -> str:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()

"""A request that comes again gets the answer that it got before; another one with its id is refused.

A caller whose connection broke can't know whether its request was decided on. It asks again with the same request id.
The router that took the decision repeats its answer, from memory or, after a crash, from its log. One that exposes is
repeated while its money is set aside or spent: another router may have heard that nothing was shown. A request that the
router no longer remembers, or that another router took, is decided anew: another decision with an id of its own, for
which the ledger refuses to pay a second time.

A request with the id of another one (same user and campaign, but another context, time, offer or baseline) is a mistake
of the caller: the old answer would not be one to its question.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from mtorl.experiment.arm import OVERRIDE, arm_key
from mtorl.log.records import V1Answer
from serving.router.flow.requests import DecisionRequest

Prediction = dict[str, Any]

MOST = 50_000  # answers that are remembered: a minute of a busy router
SECONDS = 600.0  # for which they are: far less than a reservation lasts, so that a repeated exposure is still paid for


class RequestConflict(RuntimeError):
    """A request id was used before, for a request that said something else; HTTP 409."""


def request_key(request: DecisionRequest) -> str | None:
    """Equal for two requests that are the same one: same id, user and campaign. None without an id.

    Whatever experiment decides about the user then: one that begins or ends in between pays for nothing twice.
    """
    if request.request_id is None:
        return None
    return _key(request.user_id, request.campaign_id, request.request_id)


class Answered(NamedTuple):
    """An answer that was given before."""

    at: float  # time.monotonic
    content: str | None  # hash of what the request said
    answer: Prediction
    reserved: float  # for the exposure, currency units; 0: it costs nothing to repeat the answer
    account: str  # that it was reserved in


class _InProgress(NamedTuple):
    content: str | None
    answer: asyncio.Future[Prediction]


class IdempotencyCache:
    """Recent answers, and requests that are being decided. For one event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answered] = OrderedDict()
        self._keys: dict[str, str] = {}  # decision -> request
        self._pending: dict[str, _InProgress] = {}

    def __len__(self) -> int:
        """Answers that are remembered."""
        return len(self._answers)

    @property
    def in_progress(self) -> int:
        """Requests that are being decided."""
        return len(self._pending)

    def load(self, records: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Remember the answers that the log holds.

        Args:
            records: Decisions, oldest first; of two records of a decision that which withdraws it counts.
            outcomes: Some may say that an exposure was given back.
        """
        withdrawn = set()
        for record in records:
            if record["decision_id"] in withdrawn:  # a disk that hung took this one later
                continue
            if record["withdrawn"]:
                withdrawn.add(record["decision_id"])
            age = max(time.time() - datetime.fromisoformat(record["event_time"]).timestamp(), 0.0)
            if record["request_id"] is not None and age < SECONDS:
                key = _key(record["user_id"], record["campaign_id"], record["request_id"])
                at, content = time.monotonic() - age, record["request_hash"]
                account = arm_key(record["experiment"], OVERRIDE if record["override"] else record["arm"])
                self._remember(key, Answered(at, content, prediction_of(record), record["reserved"], account))
        for outcome in outcomes:
            if outcome["kind"] == "cancel":
                self.forget(outcome["decision_id"])

    def repeat(self, key: str, content: str | None) -> asyncio.Future[Prediction] | Answered | None:
        """The answer to a request that was decided lately, or is being decided; None: it is new.

        Of an answer that money was set aside for, the caller must find out whether it still is: `begin`, and then
        `give_again` or `give`.

        Args:
            key: Of the request.
            content: Hash of what it says.

        Raises:
            RequestConflict: The request with this key said something else.
        """
        if key in self._pending:
            before = self._pending[key]
            _check_same(before.content, content)
            return before.answer
        answered = self._answers.get(key)
        if answered is None or time.monotonic() - answered.at > SECONDS:
            return None
        _check_same(answered.content, content)
        if answered.reserved:
            return answered
        repeated: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        repeated.set_result(answered.answer)
        return repeated

    def begin(self, key: str, content: str | None) -> None:
        """A request is being decided: one that comes meanwhile waits for its answer."""
        self._pending[key] = _InProgress(content, asyncio.get_running_loop().create_future())

    def give(self, key: str, answer: Prediction, reserved: float = 0.0, account: str = "") -> None:
        """The request is decided; `reserved` is for the exposure, currency units, in that account."""
        pending = self._pending.pop(key)
        self._remember(key, Answered(time.monotonic(), pending.content, answer, reserved, account))
        pending.answer.set_result(answer)

    def give_again(self, key: str, answer: Prediction) -> None:
        """The previous answer stands, and is remembered for no longer than it was."""
        self._pending.pop(key).answer.set_result(answer)

    def give_up(self, keys: Iterable[str | None]) -> None:
        """Requests that have just begun will not be decided; nobody waits for them yet."""
        for key in keys:
            if key is not None:
                self._pending.pop(key)

    def forget(self, decision_id: str) -> None:
        """The exposure was given back: the request, if it comes again, is decided anew."""
        if (key := self._keys.pop(decision_id, None)) is not None:
            self._answers.pop(key, None)

    def _remember(self, key: str, answered: Answered) -> None:
        if (before := self._answers.get(key)) is not None:  # it had expired, or is the same decision
            self._keys.pop(before.answer["decision_id"], None)
        self._answers[key] = answered
        self._answers.move_to_end(key)
        self._keys[answered.answer["decision_id"]] = key
        while len(self._answers) > MOST:
            _, oldest = self._answers.popitem(last=False)
            self._keys.pop(oldest.answer["decision_id"], None)


def _check_same(before: str | None, now: str | None) -> None:
    if before != now:
        raise RequestConflict(
            "the request_id was used before, for this user and campaign, by a request that said something else in "
            "context, timestamp, candidates, costs or baseline; give each request an id of its own"
        )


def prediction_of(record: Mapping[str, Any]) -> Prediction:
    """The answer to a decision, from its record in the log."""
    model = {"name": record["model_name"], "version": record["model_version"], "digest": record["model_digest"]}
    taken = record["fallback_reason"] is None and any(model.values())
    return {**{name: record[name] for name in V1Answer.__annotations__}, "model": model if taken else None}


def _key(*parts: str) -> str:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()

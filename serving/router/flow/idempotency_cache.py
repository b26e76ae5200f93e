"""Gives a retried request its previous answer, and refuses a different request with the same id.

An exposure is not repeated if its money was released meanwhile, for example because another router has cancelled it.
"""

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

Prediction = dict[str, Any]

MOST = 50_000  # most answers in memory (1 kB each)
SECONDS = 600.0  # age limit of answers, below that of reservations


class RequestConflict(RuntimeError):
    """Raised if a different request has used the id (HTTP 409)."""


def request_key(user_id: str, campaign_id: str, request_id: str | None) -> str | None:
    """Return a key that is equal for requests with the same id, user and campaign; None if there is no id."""
    if request_id is None:
        return None
    return hashlib.blake2b(orjson.dumps([user_id, campaign_id, request_id]), digest_size=16).hexdigest()


class Answered(NamedTuple):
    """A previous answer."""

    key: str
    at: float  # time.monotonic
    content: str | None  # hash of the request's content
    answer: Prediction
    reserved: float  # currency units
    account: str  # account in the ledger that the amount is reserved in


class _InProgress(NamedTuple):
    content: str | None
    answer: asyncio.Future[Prediction]


class IdempotencyCache:
    """A cache of recent answers and requests in progress, for one event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answered] = OrderedDict()
        self._keys: dict[str, str] = {}  # decision id -> request key
        self._pending: dict[str, _InProgress] = {}

    def load(self, records: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Load the answers from logged decisions, oldest first, except cancelled ones."""
        withdrawn = set()
        for record in records:
            if record["decision_id"] in withdrawn:  # a hanging disk may log a decision after its withdrawal
                continue
            if record["withdrawn"]:
                withdrawn.add(record["decision_id"])
            age = max(time.time() - datetime.fromisoformat(record["event_time"]).timestamp(), 0.0)
            key = request_key(record["user_id"], record["campaign_id"], record["request_id"])
            if key is not None and age < SECONDS:
                account = arm_key(record["experiment"], OVERRIDE if record["override"] else record["arm"])
                at, answer = time.monotonic() - age, prediction_of(record)
                self._remember(Answered(key, at, record["request_hash"], answer, record["reserved"], account))
        for outcome in outcomes:
            if outcome["kind"] == "cancel":
                self.forget(outcome["decision_id"])

    def claim(self, key: str, content: str | None) -> asyncio.Future[Prediction] | Answered | None:
        """Look up a request, and return what is known about it.

        Returns the future answer of the same request, or an earlier exposure that needs a check, or None for a new
        request. In the last two cases, the caller must later call `complete`, `repeat` or `release`.

        Raises RequestConflict if the earlier request with this key had another `content` (a hash).
        """
        found = self._pending.get(key) or self._answers.get(key)
        if isinstance(found, Answered) and time.monotonic() - found.at > SECONDS:
            found = None
        if found is not None and found.content != content:
            raise RequestConflict
        if isinstance(found, _InProgress):
            return found.answer
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        if found is not None and not found.reserved:
            answer.set_result(found.answer)
            return answer
        self._pending[key] = _InProgress(content, answer)
        return found

    def complete(self, key: str, answer: Prediction, reserved: float = 0.0, account: str = "") -> None:
        """Store the answer to a new request, and its reserved currency units."""
        pending = self._pending.pop(key)
        self._remember(Answered(key, time.monotonic(), pending.content, answer, reserved, account))
        pending.answer.set_result(answer)

    def repeat(self, previous: Answered) -> None:
        """Answer waiting retries with the previous answer."""
        self._pending.pop(previous.key).answer.set_result(previous.answer)

    def release(self, keys: Iterable[str | None]) -> None:
        """Undo `claim`, because no decision will be taken."""
        for key in keys:
            if key is not None:
                self._pending.pop(key)

    def forget(self, decision_id: str) -> None:
        """Remove the answer of a cancelled exposure."""
        if (key := self._keys.pop(decision_id, None)) is not None:
            self._answers.pop(key, None)

    def _remember(self, new: Answered) -> None:
        if (before := self._answers.get(new.key)) is not None:  # expired, or the same decision
            self._keys.pop(before.answer["decision_id"], None)
        self._answers[new.key] = new
        self._answers.move_to_end(new.key)
        self._keys[new.answer["decision_id"]] = new.key
        while len(self._answers) > MOST:
            _, oldest = self._answers.popitem(last=False)
            self._keys.pop(oldest.answer["decision_id"], None)


def prediction_of(record: Mapping[str, Any]) -> Prediction:
    """Build the answer to a decision from its record."""
    model = {"name": record["model_name"], "version": record["model_version"], "digest": record["model_digest"]}
    taken = record["fallback_reason"] is None and any(model.values())
    return {**{name: record[name] for name in V1Answer.__annotations__}, "model": model if taken else None}

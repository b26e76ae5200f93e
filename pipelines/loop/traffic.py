"""Sends a traffic source's opportunities to the router over HTTP, and reports the outcomes.

As in production, an exposure is added to the user's online history together with its reported outcomes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import aiohttp
import pandas as pd

from features.online.history import History
from pipelines.loop.traffic_sources import Response, TrafficSource

_TRIES = 5  # attempts at a request that a busy router refuses with 429; the wait doubles each time
_CONCURRENCY = 16  # requests in flight
MOST_ERRORS = 0.01
"""Share of opportunities that may fail. They are missing from the verdict, so a larger share would bias the verdict."""


class TrafficFailed(RuntimeError):
    """Too many requests failed; the message names the causes."""


class _Refused(RuntimeError):
    """The router refused a request with 429 after all retries."""


@dataclass
class Traffic:
    """Results of the requests of a traffic source.

    Attributes:
        latencies: Seconds between a decision request's last attempt and its answer, one value per decision.
        weights: Weight in the verdict by decision id.
        errors: Messages of requests without a 200 answer, and of touchpoints that the online history refused.
        refused: Opportunities refused with 429 after retries. These are not errors: the router refuses before it
            assigns an arm, so the comparison is not biased.
        since: Time just before the first request, UTC.
        until: Time just after the last answer, UTC.
    """

    latencies: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    since: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    until: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def done(self) -> int:
        """Number of finished opportunities, with any result."""
        return len(self.latencies) + len(self.errors) + self.refused

    def note(self) -> str:
        """Describe the number of errors and refusals."""
        return f"{len(self.errors)} errors" + (f", {self.refused:,} refused with 429" if self.refused else "")

    def check(self, opportunities: int) -> None:
        """Raise TrafficFailed if more than `MOST_ERRORS` of the opportunities failed, or all were refused."""
        if self.refused >= opportunities > 0:
            raise TrafficFailed(f"the router refused all of {opportunities:,} opportunities with 429, after retries")
        if len(self.errors) > MOST_ERRORS * opportunities:
            causes = "\n".join(f"{count:,} x {cause}" for cause, count in self.causes().most_common(5))
            raise TrafficFailed(f"{len(self.errors):,} of {opportunities:,} opportunities failed:\n{causes}")

    def weight_table(self) -> pd.DataFrame:
        """Return the weights as a table for the verdict, with columns `decision_id` and `weight`."""
        return pd.DataFrame({"decision_id": list(self.weights), "weight": list(self.weights.values())})

    def causes(self) -> Counter[str]:
        """Count the errors by text, without the user and with # in place of numbers other than HTTP statuses."""
        return Counter(re.sub(r"(?<!HTTP )\b\d+(\.\d+)?", "#", error.split(": ", 1)[1]) for error in self.errors)


Turn = tuple[int, str]
"""An opportunity: its number in the user's journey, starting at 0, and the user's id."""


def in_order(source: TrafficSource) -> list[Turn]:
    """List all opportunities in the order of sending: the first one of each user, then the second one, and so on."""
    most = max(source.opportunities.values(), default=0)
    return [(turn, user) for turn in range(most) for user, number in source.opportunities.items() if turn < number]


def in_parts(source: TrafficSource, before: int) -> list[list[Turn]]:
    """Split a source's opportunities into non-empty parts. The experiment takes a step after each part.

    The first `before` parts are for the stages before the last one. Each has one opportunity of every user with more
    than `before` opportunities. All opportunities of other users are kept for the last stage, which decides the
    verdict. The remaining parts follow the order of `in_order`.
    """
    long = {user for user, number in source.opportunities.items() if number > before}
    early = [[(turn, user) for user in source.opportunities if user in long] for turn in range(before)]
    rest = [(turn, user) for turn, user in in_order(source) if user not in long or turn >= before]
    parts = [*early, *(list(turns) for _, turns in groupby(rest, key=lambda at: at[0]))]
    return [part for part in parts if part]


@dataclass(frozen=True)
class LoadDriver:
    """A client that sends traffic to a router; `history` is the online store of the router's features."""

    url: str
    history: History

    def send(
        self,
        source: TrafficSource,
        label: str,
        on_done: Callable[[Traffic], None],
        part: Sequence[Turn] | None = None,
        before: Traffic | None = None,
    ) -> Traffic:
        """Send a source's opportunities in rounds. A round waits for all answers to the previous one.

        Args:
            label: Prefix of the request ids, which make the router's random draws reproducible.
            on_done: Called after each decision with the traffic so far.
            part: Opportunities to send, in the order of `in_order`; None for all.
            before: Traffic of earlier parts, to which this part is added.
        """
        traffic = before or Traffic()
        for _, turns in groupby(in_order(source) if part is None else part, key=lambda at: at[0]):
            asyncio.run(self._send_round(source, turns, label, traffic, on_done))
        traffic.until = dt.datetime.now(dt.UTC)
        return traffic

    async def _send_round(
        self,
        source: TrafficSource,
        turns: Iterator[Turn],
        label: str,
        traffic: Traffic,
        on_done: Callable[[Traffic], None],
    ) -> None:
        timeout, connector = aiohttp.ClientTimeout(total=30), aiohttp.TCPConnector(limit=_CONCURRENCY)
        async with aiohttp.ClientSession(base_url=self.url, timeout=timeout, connector=connector) as session:
            reports = _Reports(session)

            async def work() -> None:
                for turn in turns:
                    try:
                        await self._decide(source, turn, label, reports, traffic)
                    except _Refused:
                        traffic.refused += 1
                    except (aiohttp.ClientError, TimeoutError, KeyError, RuntimeError, ValueError) as error:
                        traffic.errors.append(f"{turn[1]}: {type(error).__name__}: {error}")
                    on_done(traffic)

            await asyncio.gather(*(work() for _ in range(_CONCURRENCY)))

    async def _decide(self, source: TrafficSource, turn: Turn, label: str, reports: _Reports, traffic: Traffic) -> None:
        number, user_id = turn
        opportunity = source.opportunity(user_id, number)
        request = {
            "user_id": user_id,
            "campaign_id": opportunity["campaign_id"],
            # Send a missing number as null: JSON has no NaN, and the router refuses invalid JSON.
            "context": {name: None if value != value else value for name, value in opportunity["context"].items()},
            "request_id": f"{label}-{number}-{user_id}",
            "timestamp": opportunity["timestamp"].isoformat(),
        }
        answer, seconds = await _post(reports.session, "/v1/models/ads:predict", {"instances": [request]})
        traffic.latencies.append(seconds)
        decision = answer["predictions"][0]
        response = source.respond(user_id, number, decision)
        traffic.weights[decision["decision_id"]] = response.weight
        if response.outcomes:
            await reports.send(_outcome_records(decision["decision_id"], response))
        if (shown := response.touchpoint) is not None:
            exposure, *outcomes = shown.records(decision["decision_id"])
            changes = [self.history.exposure(exposure), *map(self.history.outcome, outcomes)]
            if not self.history.change({user_id: changes}):
                raise RuntimeError(f"the online history refused the touchpoint at {shown.timestamp}")


class _Reports:
    """A batcher of outcomes: all outcomes that arrive during one report are sent together in the next report."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self._waiting: list[dict[str, Any]] = []
        self._next: asyncio.Task[None] | None = None  # the task that will report the waiting outcomes
        self._turn = asyncio.Lock()

    async def send(self, outcomes: list[dict[str, Any]]) -> None:
        """Report outcomes, and return when the router has stored them. A failed report raises in all its callers."""
        self._waiting += outcomes
        if self._next is None:
            self._next = asyncio.create_task(self._report())
        await asyncio.shield(self._next)

    async def _report(self) -> None:
        async with self._turn:
            together, self._waiting, self._next = self._waiting, [], None
            try:
                await _post(self.session, "/v1/outcomes", {"outcomes": together})
            except _Refused:  # counts as an error, not as a refusal, because the decision's outcome is lost
                raise RuntimeError("HTTP 429 from /v1/outcomes, after retries") from None


def _outcome_records(decision_id: str, response: Response) -> list[dict[str, Any]]:
    own = {"decision_id": decision_id, "event_time": dt.datetime.now(dt.UTC).isoformat()}
    told = response.outcomes
    return [{"event_id": f"{decision_id}-{kind}", "kind": kind, "value": value, **own} for kind, value in told]


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Send a request, and retry after 429; returns the answer and the seconds of the last attempt."""
    for attempt in range(_TRIES):
        started = time.perf_counter()
        async with session.post(path, json=body) as response:
            if response.status == 200:
                content: dict[str, Any] = await response.json()
                return content, time.perf_counter() - started
            if response.status != 429:
                raise RuntimeError(f"HTTP {response.status} from {path}: {(await response.text())[:200]}")
            wait = float(response.headers.get("retry-after", 1)) * 2**attempt
        if attempt + 1 < _TRIES:
            await asyncio.sleep(wait)
    raise _Refused

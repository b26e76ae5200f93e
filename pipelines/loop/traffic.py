"""Sends the requests of simulated or replayed users to the router over HTTP, and reports their outcomes."""

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

# The wait between attempts doubles each time.
_TRIES = 5
_CONCURRENCY = 16
MOST_ERRORS = 0.01
"""Largest share of opportunities that may fail. Failed opportunities are missing from the log, so many of them would
bias the verdict."""


class TrafficFailed(RuntimeError):
    """Raised if too many requests have failed. The message gives the causes."""


class _Refused(RuntimeError):
    """Raised after status 429 to all attempts."""


@dataclass
class Traffic:
    """The results of sending requests.

    Attributes:
        latencies: Seconds between the last attempt at each decision request and its answer.
        weights: Weight of each decision in the verdict, by decision id.
        errors: Messages of failed requests and of touchpoints that the online history refused.
        refused: Number of opportunities for which the router answered all attempts with status 429.
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
        """Return the number of opportunities that succeeded, failed or were refused."""
        return len(self.latencies) + len(self.errors) + self.refused

    def note(self) -> str:
        """Describe the number of errors and refusals."""
        return f"{len(self.errors)} errors" + (f", {self.refused:,} refused with 429" if self.refused else "")

    def check(self, opportunities: int) -> None:
        """Raise TrafficFailed if more than `MOST_ERRORS` of the opportunities failed, or if all were refused."""
        if self.refused >= opportunities > 0:
            raise TrafficFailed(f"the router refused all of {opportunities:,} opportunities with 429, after retries")
        if len(self.errors) > MOST_ERRORS * opportunities:
            causes = "\n".join(f"{count:,} x {cause}" for cause, count in self.causes().most_common(5))
            raise TrafficFailed(f"{len(self.errors):,} of {opportunities:,} opportunities failed:\n{causes}")

    def weight_table(self) -> pd.DataFrame:
        """Return the weights as a table for the verdict, with the columns `decision_id` and `weight`."""
        return pd.DataFrame({"decision_id": list(self.weights), "weight": list(self.weights.values())})

    def causes(self) -> Counter[str]:
        """Count the errors by cause, without user ids and numbers."""
        return Counter(re.sub(r"(?<!HTTP )\b\d+(\.\d+)?", "#", error.split(": ", 1)[1]) for error in self.errors)


Turn = tuple[int, str]
"""An opportunity: its number in the user's journey, counted from 0, and the user's id."""


def in_order(source: TrafficSource) -> list[Turn]:
    """List all opportunities: first the first one of each user, then the second one of each user, and so on."""
    most = max(source.opportunities.values(), default=0)
    return [(turn, user) for turn in range(most) for user, number in source.opportunities.items() if turn < number]


def in_parts(source: TrafficSource, before: int) -> list[list[Turn]]:
    """Split the opportunities into parts, after each of which the experiment may move to its next stage.

    The first `before` parts have one request of each user with more than `before` requests.
    """
    long = {user for user, number in source.opportunities.items() if number > before}
    early = [[(turn, user) for user in source.opportunities if user in long] for turn in range(before)]
    rest = [(turn, user) for turn, user in in_order(source) if user not in long or turn >= before]
    parts = [*early, *(list(turns) for _, turns in groupby(rest, key=lambda at: at[0]))]
    return [part for part in parts if part]


@dataclass(frozen=True)
class LoadDriver:
    """A client that sends requests to a router and touchpoints to the online store."""

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
        """Send the opportunities in rounds. A round waits for all answers of the previous round.

        Args:
            label: Prefix of the request ids, which make the router's random draws reproducible.
            part: Opportunities to send. None sends all.
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
            # The router refuses NaN, which is invalid JSON.
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
    """Sends outcomes in batches."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self._waiting: list[dict[str, Any]] = []
        self._next: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def send(self, outcomes: list[dict[str, Any]]) -> None:
        """Report outcomes, and wait until the router has stored them."""
        self._waiting += outcomes
        if self._next is None:
            self._next = asyncio.create_task(self._report())
        await asyncio.shield(self._next)

    async def _report(self) -> None:
        async with self._turn:
            together, self._waiting, self._next = self._waiting, [], None
            try:
                await _post(self.session, "/v1/outcomes", {"outcomes": together})
            # This is an error and not a refusal, because the outcome of a decision is lost.
            except _Refused:
                raise RuntimeError("HTTP 429 from /v1/outcomes, after retries") from None


def _outcome_records(decision_id: str, response: Response) -> list[dict[str, Any]]:
    own = {"decision_id": decision_id, "event_time": dt.datetime.now(dt.UTC).isoformat()}
    told = response.outcomes
    return [{"event_id": f"{decision_id}-{kind}", "kind": kind, "value": value, **own} for kind, value in told]


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Send a request, with retries after status 429. Return the answer and the last attempt's duration in seconds."""
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

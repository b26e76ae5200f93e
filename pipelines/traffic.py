"""The load driver: sends a world's opportunities to the router over HTTP and reports their outcomes back.

As in production, what was shown goes into the user's online history at once, and its outcomes when they are known.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from features.online.history import History
from pipelines.traffic_sources import Response, World


@dataclass
class Traffic:
    """What was sent and what came back.

    Attributes:
        latencies: Seconds from sending a decision request to its answer, one per decision.
        weights: Weight in the verdict by decision id.
        errors: Requests that were not answered with 200, and touchpoints that no history took, as text.
    """

    latencies: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def drive(
    world: World,
    url: str,
    round_index: int,
    traffic: Traffic,
    label: str,
    concurrency: int,
    history: History,
    on_done: Callable[[], None],
) -> None:
    """Send one opportunity of every user and wait for all answers.

    Args:
        world: Where opportunities come from and decisions go.
        url: The router's address.
        round_index: Which of the world's rounds.
        traffic: Collects the results.
        label: Prefix of the request ids, which make the router's draws reproducible.
        concurrency: Requests in flight.
        history: Online store of the router's features.
        on_done: Called after each decision.
    """
    waiting = iter(world.users)

    async def work(session: aiohttp.ClientSession) -> None:
        for user_id in waiting:
            try:
                await _one(session, world, user_id, round_index, traffic, label, history)
            except (aiohttp.ClientError, TimeoutError, KeyError, RuntimeError, ValueError) as error:
                traffic.errors.append(f"{user_id}: {type(error).__name__}: {error}")
            on_done()

    async def send() -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(base_url=url, timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(work(session) for _ in range(concurrency)))

    asyncio.run(send())


async def _one(
    session: aiohttp.ClientSession,
    world: World,
    user_id: str,
    round_index: int,
    traffic: Traffic,
    label: str,
    history: History,
) -> None:
    found = world.opportunity(user_id, round_index)
    request = {
        "user_id": user_id,
        "campaign_id": found["campaign_id"],
        "context": found["context"],
        "request_id": f"{label}-{round_index}-{user_id}",
        "timestamp": found["timestamp"].isoformat(),
    }
    started = time.perf_counter()
    answer = await _post(session, "/v1/models/ads:predict", {"instances": [request]})
    traffic.latencies.append(time.perf_counter() - started)
    decision = answer["predictions"][0]
    response: Response = world.respond(user_id, round_index, decision)
    traffic.weights[decision["decision_id"]] = response.weight
    shown = response.touchpoint
    if shown is not None and not history.append(user_id, replace(shown, outcomes={})):
        raise RuntimeError(f"the history has no place for the touchpoint at {shown.timestamp}")
    if response.outcomes:
        now = dt.datetime.now(dt.UTC).isoformat()
        outcomes = [
            {
                "event_id": f"{decision['decision_id']}-{kind}",
                "decision_id": decision["decision_id"],
                "kind": kind,
                "value": value,
                "event_time": now,
            }
            for kind, value in response.outcomes
        ]
        await _post(session, "/v1/outcomes", {"outcomes": outcomes})
    if shown is not None and not history.patch(user_id, shown.timestamp, shown.outcomes):
        raise RuntimeError(f"the history has lost the touchpoint at {shown.timestamp}")


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(path, json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status} from {path}: {(await response.text())[:200]}")
        content: dict[str, Any] = await response.json()
        return content

"""A load generator for HTTP/1.1: keeps connections open, sends prepared bodies, notes each answer's status and time.

    python -m benchmarks.request_path.load < plan.json          # prints what it measured as JSON

Closed loop: each connection sends as soon as it has its answer. Open loop (`rate`): requests are due at fixed times
whether or not a connection is free, and their time counts from when they were due. A request takes tens of
microseconds of a core: on a machine that it shares with the servers, judge them by their own CPU time.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
_TICK_SECONDS = 0.001  # uvloop's clock counts milliseconds: a shorter sleep would be a busy one


@dataclass(frozen=True)
class Plan:
    """What to send."""

    url: str
    bodies: list[str]  # taken at random
    connections: int
    seconds: float
    rate: float = 0.0  # requests a second; 0: closed loop
    warm_seconds: float = 1.0  # at the start, not counted
    seed: int = 0


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        parts = urlsplit(plan.url)
        self._address = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._requests = [f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode() for body in plan.bodies]
        self._random = random.Random(plan.seed)
        self._waiting: asyncio.Queue[float] = asyncio.Queue()  # times at which requests were due, in an open loop
        self._from = time.perf_counter() + plan.warm_seconds
        self._until = self._from + plan.seconds
        self.times: dict[int, list[float]] = {}
        self.fallbacks: Counter[str] = Counter()
        self.broken = 0

    async def run(self) -> dict[str, object]:
        """Send for the time of the plan."""
        tasks = [asyncio.create_task(self._connection()) for _ in range(self._plan.connections)]
        if self._plan.rate:
            tasks.append(asyncio.create_task(self._arrive()))
        left = self._until - time.perf_counter()
        ended, going_on = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
        for task in going_on:
            task.cancel()
        for task in ended:
            task.result()  # raises what it failed with: whoever measures must not read on
        answered = {status: sorted(times) for status, times in self.times.items()}
        total = sum(map(len, answered.values()))
        return {
            "requests": total,
            "per_second": total / self._plan.seconds,
            "statuses": {str(status): len(times) for status, times in answered.items()},
            "latency_ms": {
                str(status): {name: 1000 * times[min(len(times) - 1, int(q * len(times)))] for name, q in _QUANTILES}
                for status, times in answered.items()
            },
            "fallbacks": dict(self.fallbacks),
            "broken_connections": self.broken,
            "never_answered": self._waiting.qsize(),
        }

    async def _connection(self) -> None:
        """Send one request after the other, until the connection breaks."""
        reader, writer = await asyncio.open_connection(*self._address)
        while True:
            due = await self._waiting.get() if self._plan.rate else time.perf_counter()
            try:
                writer.write(self._random.choice(self._requests))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: *(\d+)", head)
                if length is None:
                    raise RuntimeError(f"an answer without content-length: {head!r}")
                body = await reader.readexactly(int(length[1]))
            except (asyncio.IncompleteReadError, OSError):
                self.broken += 1
                return
            self._count(due, int(head[9:12]), body)

    async def _arrive(self) -> None:
        due = time.perf_counter()
        while due < self._until:
            await asyncio.sleep(max(_TICK_SECONDS, due - time.perf_counter()))
            while due <= time.perf_counter() and due < self._until:
                self._waiting.put_nowait(due)
                due += 1 / self._plan.rate

    def _count(self, due: float, status: int, body: bytes) -> None:
        """Count an answer that was due, and came, within the measured time."""
        now = time.perf_counter()
        if self._from <= due and now <= self._until:
            self.times.setdefault(status, []).append(now - due)
            if reason := re.search(rb'"fallback_reason":"([^"]*)"', body):
                self.fallbacks[reason[1].decode()] += 1


def main() -> None:
    import uvloop

    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(uvloop.run(Load(plan).run())))


if __name__ == "__main__":
    main()

"""A load generator for HTTP/1.1: sends prepared requests on open connections, and measures the responses.

    python -m benchmarks.request_path.load < plan.json          # prints the figures as JSON

If `rate` is set (an open loop), requests are due at fixed times, and latency includes the wait for a connection.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REASON = re.compile(rb'"fallback_reason":"([^"]*)"')
# uvloop counts whole milliseconds, so a shorter sleep would end at once.
_TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Plan:
    """The requests that the load generator sends.

    Attributes:
        bodies: Bodies of requests, chosen at random.
        seconds: Duration of the measurement.
        rate: Requests per second in an open loop; 0 means a closed loop.
        warm_seconds: Duration of the warm-up before the measurement.
    """

    url: str
    bodies: list[str]
    connections: int
    seconds: float
    rate: float = 0.0
    warm_seconds: float = 1.0
    seed: int = 0


class Load:
    """Sends the requests of one plan and counts the responses."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        parts = urlsplit(plan.url)
        self._address = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._requests = [f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode() for body in plan.bodies]
        self._random = random.Random(plan.seed)
        self._idle: deque[_Connection] = deque()
        # Due times of requests that wait for a free connection.
        self._due: deque[float] = deque()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._from = time.perf_counter() + plan.warm_seconds
        self._until = self._from + plan.seconds
        self.times: dict[int, list[float]] = {}
        self.fallbacks: Counter[str] = Counter()
        self.broken = 0

    async def run(self) -> dict[str, object]:
        """Send all requests, and return the figures."""
        loop, connections = asyncio.get_running_loop(), self._plan.connections
        connected = (loop.create_connection(lambda: _Connection(self), *self._address) for _ in range(connections))
        transports = [transport for transport, _ in await asyncio.gather(*connected)]
        arriving = asyncio.create_task(self._arrive() if self._plan.rate else asyncio.sleep(0))
        await asyncio.wait([self._ended], timeout=self._until - time.perf_counter())
        arriving.cancel()
        if self._ended.done():
            self._ended.result()  # raises the error that ended the run
        answered = {status: sorted(times) for status, times in self.times.items()}
        for transport in transports:
            transport.abort()
        total = sum(map(len, answered.values()))
        latency_ms = {
            str(status): {name: 1000 * times[min(len(times) - 1, int(q * len(times)))] for name, q in _QUANTILES}
            for status, times in answered.items()
        }
        statuses = {str(status): len(times) for status, times in answered.items()}
        found = {"requests": total, "per_second": total / self._plan.seconds, "statuses": statuses}
        faults = {"fallbacks": dict(self.fallbacks), "broken_connections": self.broken}
        return {**found, "latency_ms": latency_ms, **faults, "never_answered": len(self._due)}

    def next(self, connection: "_Connection") -> None:
        """Send the next request on a free connection, in an open loop once it is due."""
        if not self._plan.rate:
            connection.ask(self._random.choice(self._requests), time.perf_counter())
        elif self._due:
            connection.ask(self._random.choice(self._requests), self._due.popleft())
        else:
            self._idle.append(connection)

    async def _arrive(self) -> None:
        due = time.perf_counter()
        while due < self._until:
            await asyncio.sleep(max(_TICK_SECONDS, due - time.perf_counter()))
            while due <= time.perf_counter() and due < self._until:
                self._due.append(due)
                due += 1 / self._plan.rate
            while self._due and self._idle:
                self.next(self._idle.popleft())

    def count(self, due: float, status: int, body: bytes) -> None:
        """Count a response if it and its request are within the measured time."""
        now = time.perf_counter()
        if self._from <= due and now <= self._until:
            self.times.setdefault(status, []).append(now - due)
            if reason := _REASON.search(body):
                self.fallbacks[reason[1].decode()] += 1

    def fail(self, fault: Exception) -> None:
        """Stop sending, and let `run` raise an error."""
        if not self._ended.done():
            self._ended.set_exception(fault)


class _Connection(asyncio.Protocol):
    """A connection that sends one request after the other until the server closes it.

    It does not use asyncio streams, which would need three times as much CPU time.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.next(self)

    def ask(self, request: bytes, due: float) -> None:
        self._since = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if (end := self._answer.find(b"\r\n\r\n")) < 0:
            return
        if (length := _LENGTH.search(self._answer, 0, end)) is None:
            self._load.fail(RuntimeError(f"a response without content-length: {self._answer[:end]!r}"))
            return
        if len(self._answer) >= end + 4 + int(length[1]):
            status, body, self._answer = int(self._answer[9:12]), self._answer[end:], b""
            self._load.count(self._since, status, body)
            self._load.next(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.broken += 1


def main() -> None:
    import uvloop

    async def run(plan: Plan) -> dict[str, object]:
        return await Load(plan).run()

    print(json.dumps(uvloop.run(run(Plan(**json.load(sys.stdin))))))


if __name__ == "__main__":
    main()

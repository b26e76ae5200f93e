"""A load generator for HTTP/1.1: keeps connections open, sends prepared bodies, notes each answer's status and time.

    python -m benchmarks.request_path.load < plan.json          # prints what it measured as JSON

Closed loop: each connection sends as soon as it has its answer. Open loop (`rate`): requests are due at fixed times
whether or not a connection is free, and their time counts from when they were due. It takes some 60 us of a core for a
request: on a machine that it shares with the servers, judge them by their own CPU time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any
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

    def to_json(self) -> str:
        """The plan as JSON, for the process that sends."""
        return json.dumps(asdict(self))


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._due = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.free(self)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            raise RuntimeError(f"an answer without content-length: {head!r}")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        status, body = int(head[9:12]), self._buffer[end + 4 :]
        self._buffer = b""
        self._load.answered(self._due, status, body)
        self._load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost()


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        parts = urlsplit(plan.url)
        self._address = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._requests = [f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode() for body in plan.bodies]
        self._random = random.Random(plan.seed)
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()  # times at which requests were due while no connection was free
        self._from = self._until = 0.0
        self._over = False
        self.times: dict[int, list[float]] = {}
        self.fallbacks: Counter[str] = Counter()
        self.broken = 0
        self.fault: BaseException | None = None  # of a callback: whoever measures must not read on

    async def run(self) -> dict[str, object]:
        """Send for the time of the plan."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        now = time.perf_counter()
        self._from, self._until = now + self._plan.warm_seconds, now + self._plan.warm_seconds + self._plan.seconds
        await asyncio.gather(
            *(loop.create_connection(lambda: _Connection(self), *self._address) for _ in range(self._plan.connections))
        )
        if self._plan.rate:
            due = time.perf_counter()
            while due < self._until:
                await asyncio.sleep(max(_TICK_SECONDS, due - time.perf_counter()))
                while due <= time.perf_counter() and due < self._until:
                    self._arrive(due)
                    due += 1 / self._plan.rate
        await asyncio.sleep(max(0.0, self._until - time.perf_counter()))
        self._over = True
        if self.fault is not None:
            raise self.fault
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
            "never_answered": len(self._waiting),
        }

    def free(self, connection: _Connection) -> None:
        """A connection has nothing to do."""
        if self._over:
            return
        if not self._plan.rate:
            connection.send(self._random.choice(self._requests), time.perf_counter())
        elif self._waiting:
            connection.send(self._random.choice(self._requests), self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _arrive(self, due: float) -> None:
        if self._idle:
            self._idle.popleft().send(self._random.choice(self._requests), due)
        else:
            self._waiting.append(due)

    def answered(self, due: float, status: int, body: bytes) -> None:
        """Count an answer that was due, and came, within the measured time."""
        now = time.perf_counter()
        if self._from <= due and now <= self._until:
            self.times.setdefault(status, []).append(now - due)
            at = body.find(b'"fallback_reason":"')
            if at >= 0:
                self.fallbacks[body[at + 19 :].split(b'"', 1)[0].decode()] += 1

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.fault = self.fault or context.get("exception") or RuntimeError(context["message"])

    def lost(self) -> None:
        """Count a broken connection, unless the load has ended."""
        self.broken += not self._over


def main() -> None:
    import uvloop

    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(uvloop.run(Load(plan).run())))


if __name__ == "__main__":
    main()

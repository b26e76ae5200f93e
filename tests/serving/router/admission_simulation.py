"""Simulates a server under load in virtual time, with the real class `Admission`.

A batch of up to eight requests takes 1 ms plus 0.7 ms per request, times a random factor. A request that isn't done
after 85 % of its deadline gets the default action.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from serving.router.flow import admission
from serving.router.flow.admission import CURRENT, Admission, Saturated

DEADLINE = 0.05
_END = 0.85 * DEADLINE  # time limit for the work on a request, in seconds
# Seconds of work for a batch, for each of its requests, and for a refusal.
_PER_BATCH, _PER_REQUEST, _PER_REFUSAL = 0.001, 0.0007, 0.00004
_LARGEST = 8
_SPREAD = 0.25
_THINK_SECONDS = 0.0003  # Pause of a client between an answer and its next request, in seconds.


class _Selector(selectors.DefaultSelector):
    """A selector that moves the clock forward by the timeout instead of waiting."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock, which moves forward only if no task can run."""

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop, self.now = self, 0.0
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now


@dataclass
class Answers:
    seconds: float
    full: int = 0
    default: int = 0
    refused: int = 0
    times: list[float] = field(default_factory=list)  # latencies of full answers, seconds

    @property
    def goodput(self) -> float:
        return self.full / self.seconds

    @property
    def default_share(self) -> float:
        """Return the share of default actions among answers that are not refusals."""
        return self.default / max(self.full + self.default, 1)

    @property
    def p99(self) -> float:
        """Return the 99th percentile of full answers' latency, in seconds."""
        return sorted(self.times)[int(0.99 * len(self.times))]


@dataclass
class Machine:
    """A simulated machine, whose `speed` and `hangs` depend on the time in seconds."""

    speed: Callable[[float], float] = lambda now: 1.0
    # Whether a request is never answered
    hangs: Callable[[float, random.Random], bool] = lambda now, chance: False
    stalls: float = 0.0  # Stalls per second.
    stall_seconds: float = 0.06


class _Run:
    def __init__(self, machine: Machine, seconds: float, warm: float, seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(64, DEADLINE)
        self.chance = random.Random(seed)
        # With its own generator, stalls come at the same times for any limit.
        self._stalls = random.Random(seed)
        self._stall = self._stalls.expovariate(machine.stalls or 1e-9)  # Time at which the next stall begins.
        self._machine, self._from, self.answers = machine, warm, Answers(seconds)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._arrives = asyncio.Event()
        self._refusals = 0.0  # seconds of work on refusals

    async def work(self) -> None:
        while True:
            while not self._waiting:
                self._arrives.clear()
                await self._arrives.wait()
            batch: list[asyncio.Future[None]] = []
            while self._waiting and len(batch) < _LARGEST:
                if not (one := self._waiting.popleft()).done():
                    batch.append(one)
            seconds = _PER_BATCH + _PER_REQUEST * len(batch) + self._refusals
            seconds *= self.chance.lognormvariate(0, _SPREAD) / self._machine.speed(self.loop.time())
            self._refusals = 0.0
            while self._stall < self.loop.time() + seconds:
                seconds += self._machine.stall_seconds
                self._stall += self._stalls.expovariate(self._machine.stalls)
            await asyncio.sleep(seconds)
            for one in batch:
                if not one.done():
                    one.set_result(None)

    async def ask(self) -> None:
        start = self.loop.time()
        try:
            async with self.admission.admit():
                kind = await self._decide(start)
        except Saturated:
            self._refusals += _PER_REFUSAL
            kind = "refused"
        if start >= self._from:
            setattr(self.answers, kind, getattr(self.answers, kind) + 1)
            if kind == "full":
                self.answers.times.append(self.loop.time() - start)

    async def _decide(self, start: float) -> str:
        request = CURRENT.get()
        assert request is not None
        one: asyncio.Future[None] = self.loop.create_future()
        if not self._machine.hangs(self.loop.time(), self.chance):
            self._waiting.append(one)
            self._arrives.set()
        try:
            async with asyncio.timeout(max(_END - (self.loop.time() - start), 0.0)):
                await one
        except TimeoutError:
            request.late = True
            return "default"
        return "full"


def simulate(
    machine: Machine,
    seconds: float,
    clients: int = 0,
    rate: Callable[[float], float] = lambda now: 0.0,
    warm: float = 3.0,
    seed: int = 0,
    fixed: int = 0,
) -> Answers:
    """Simulate load on a machine, and return the answers after the first `warm` seconds.

    In a closed loop, each of the `clients` sends its next request after an answer. With 0 clients, the loop is open,
    and `rate` gives the requests per second. `fixed` is a constant admission limit; with 0, the limit adapts to the
    load.
    """

    async def load() -> Answers:
        run = _Run(machine, seconds, warm, seed)
        working = asyncio.create_task(run.work())
        asked: set[asyncio.Task[None]] = set()

        async def client() -> None:
            while run.loop.time() < warm + seconds:
                await run.ask()
                await asyncio.sleep(_THINK_SECONDS)

        if clients:
            await asyncio.gather(*(client() for _ in range(clients)))
        else:
            while run.loop.time() < warm + seconds:
                await asyncio.sleep(run.chance.expovariate(rate(run.loop.time())))
                task = asyncio.create_task(run.ask())
                asked.add(task)
                task.add_done_callback(asked.discard)
            await asyncio.gather(*asked)
        working.cancel()
        return run.answers

    loop = VirtualLoop()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(admission, "perf_counter", loop.time)
            if fixed:
                for name, value in (("_INITIAL", fixed), ("_STEP", 0.0), ("_CUT", 0.0)):
                    patch.setattr(admission, name, value)
            return loop.run_until_complete(load())
    finally:
        loop.close()

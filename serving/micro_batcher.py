"""Many callers, few calls: what arrives while some batches are at work makes up the next one.

So the number of calls follows the speed of whoever answers them and not the traffic, and a lone request does not wait.
With stores whose calls block, the same holds for the number of threads that compete for the interpreter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Results = Sequence[Result | Exception]


class MicroBatcher(Generic[Item, Result]):
    """A function over a batch, as a call for one item. For one event loop.

    Args:
        work: Gives a result or an exception for each item, in order; an exception that it raises concerns all of them.
        at_once: How many batches with waiting callers may be at work. (A thread can't be stopped: one whose callers
            gave up goes on beside them.)
        weight: Weight of an item.
        largest: Weight that a batch of several items does not exceed.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Results[Result]]],
        at_once: int = 1,
        weight: Callable[[Item], int] = lambda _: 1,
        largest: int = 256,
    ) -> None:
        self._work = work
        self._free = at_once
        self._weight = weight
        self._largest = largest
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The item's result.

        If the call is cancelled before its batch begins, the item is left out of it. A batch of which all calls are
        cancelled is cancelled, too: a part that never answers must not hold a place for ever.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._begin()
        return await done

    def _begin(self) -> None:
        while self._free and (batch := self._next()):
            self._free -= 1
            running = asyncio.create_task(self._run(batch))
            self._running.add(running)
            running.add_done_callback(self._over)
            _cancel_when_all_gave_up(running, [done for _, done in batch])

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting:
            item, done = self._waiting[0]
            if not done.done():
                weight += self._weight(item)
                if batch and weight > self._largest:
                    break
                batch.append((item, done))
            self._waiting.popleft()
        return batch

    async def _run(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | BaseException]
        try:
            results = await self._work([item for item, _ in batch])
        except (Exception, asyncio.CancelledError) as error:
            results = [error] * len(batch)
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():  # its caller gave up
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)

    def _over(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._free += 1
        self._begin()


def _cancel_when_all_gave_up(running: asyncio.Task[None], calls: Sequence[asyncio.Future[Result]]) -> None:
    left = len(calls)

    def over(_: asyncio.Future[Result]) -> None:
        nonlocal left
        left -= 1
        if not left:
            running.cancel()  # does nothing if the answers are there

    for call in calls:
        call.add_done_callback(over)


def in_threads(
    work: Callable[[Sequence[Item]], Results[Result]], pool: Executor
) -> Callable[[Sequence[Item]], Awaitable[Results[Result]]]:
    """A function that blocks, run in threads."""
    return lambda items: asyncio.get_running_loop().run_in_executor(pool, work, items)

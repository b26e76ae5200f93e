"""Many callers, few calls: what arrives while one pass is at work makes up the next one.

A lone request does not wait for others, and under load the number of passes follows their speed and not the traffic.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """A function over a batch, as a call for one item. For one event loop, which stands still meanwhile."""

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], weight: Callable[[Item], int], largest: int
    ) -> None:
        self._work = work
        self._weight = weight
        self._largest = largest  # weight that a batch of several items does not exceed
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """The item's result. If the call is cancelled before its batch begins, the item is left out of it."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)  # after all that has arrived by now
        done: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, done))
        return done

    def _run(self) -> None:
        batch = self._next()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        if not batch:
            return
        try:
            results = self._work([item for item, _ in batch])
            for (_, done), result in zip(batch, results, strict=True):
                done.set_result(result)
        except Exception as error:
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting:
            item, done = self._waiting[0]
            if not done.done():  # else its caller has given up
                weight += self._weight(item)
                if batch and weight > self._largest:
                    break
                batch.append((item, done))
            self._waiting.popleft()
        return batch

"""Many callers, few calls: what arrives while one pass is at work makes up the next one.

A lone request does not wait for others, and under load the number of passes follows their speed and not the traffic.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any


class MicroBatcher:
    """A function over items, as calls for some items each. For one event loop, which stands still meanwhile."""

    def __init__(self, work: Callable[[list[Any]], Sequence[Any]], largest: int) -> None:
        self._work = work
        self._largest = largest  # items that a batch of several calls does not exceed
        self._waiting: deque[tuple[list[Any], asyncio.Future[list[Any]]]] = deque()

    def submit(self, items: list[Any]) -> asyncio.Future[list[Any]]:
        """The items' results. If the call is cancelled before its batch begins, it is left out of the batch."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)  # after all that has arrived by now
        done: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((items, done))
        return done

    def _run(self) -> None:
        batch = self._next()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        try:
            results = iter(self._work([item for items, _ in batch for item in items]) if batch else ())
            for items, done in batch:
                done.set_result(list(islice(results, len(items))))
        except Exception as error:
            for _, done in batch:
                done.set_exception(error)

    def _next(self) -> list[tuple[list[Any], asyncio.Future[list[Any]]]]:
        batch: list[tuple[list[Any], asyncio.Future[list[Any]]]] = []
        size = 0
        while self._waiting:
            items, done = self._waiting[0]
            if not done.done():  # else its caller has given up
                size += len(items)
                if batch and size > self._largest:
                    break
                batch.append((items, done))
            self._waiting.popleft()
        return batch

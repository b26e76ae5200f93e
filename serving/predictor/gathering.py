"""One forward pass for all requests that have come since the one before.

A request waits for no timer: the pass begins as soon as the event loop has read what was there, and what arrives while
it is at work makes up the next one. So batches grow with the load, and a lone request is answered at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

_LARGEST = 64  # items of several requests in a pass: a few milliseconds, in which nothing else is done

Items = Sequence[Any]


class Gathering:
    """A function over many items, as a call for the few of one request. For one event loop, which it blocks.

    Args:
        work: Gives a result for each item, in order. An exception concerns all requests of the pass.
    """

    def __init__(self, work: Callable[[list[Any]], list[Any]]) -> None:
        self._work = work
        self._waiting: deque[tuple[Items, asyncio.Future[list[Any]]]] = deque()

    async def submit(self, items: Items) -> list[Any]:
        """The results of these items, in order."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._pass)
        self._waiting.append((items, done))
        return await done

    def _pass(self) -> None:
        batch: list[tuple[Items, asyncio.Future[list[Any]]]] = []
        weight = 0
        while self._waiting and (not batch or weight + len(self._waiting[0][0]) <= _LARGEST):
            items, done = self._waiting.popleft()
            if not done.done():  # else its caller gave up
                batch.append((items, done))
                weight += len(items)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._pass)
        if not batch:
            return
        try:
            results = self._work([item for items, _ in batch for item in items])
            if len(results) != weight:
                raise RuntimeError(f"{len(results)} results for {weight} items")
        except Exception as error:
            for _, done in batch:
                done.set_exception(RuntimeError("StopIteration") if isinstance(error, StopIteration) else error)
            return
        rest = iter(results)
        for items, done in batch:
            done.set_result(list(islice(rest, len(items))))

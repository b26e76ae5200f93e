"""Combines calls of a function into batches: while one batch runs, new calls are collected for the next batch."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any


class MicroBatcher:
    """Combines calls of `work`, a function from a list of items to a list of results."""

    def __init__(self, work: Callable[[list[Any]], Sequence[Any]], largest: int) -> None:
        self._work = work
        self._largest = largest  # most items in a batch of several calls
        self._waiting: deque[tuple[list[Any], asyncio.Future[list[Any]]]] = deque()

    def submit(self, items: list[Any]) -> asyncio.Future[list[Any]]:
        """Queue items; returns a future of their results, which may be cancelled."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)  # after the calls that have already arrived
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
            if not done.done():  # otherwise the caller has cancelled it
                size += len(items)
                if batch and size > self._largest:
                    break
                batch.append((items, done))
            self._waiting.popleft()
        return batch

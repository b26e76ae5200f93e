"""Waits of tests for other threads, tasks and processes."""

import asyncio
import inspect
from collections.abc import Callable, Generator
from time import monotonic, sleep
from typing import TypeVar, cast

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], seconds: float = 60, state: Callable[[], object] = str) -> T:
    """Poll until a condition is true, and return its value.

    An `OSError` counts as not yet true: a server does not listen, or a file is missing. Other errors end the wait.

    Args:
        condition: Function to poll.
        seconds: Time limit. At least 20, because a busy machine may stop a process for seconds.
        state: Returns what explains a failure, such as a log.

    Raises:
        AssertionError: The condition was not true in time.
    """
    polls = _poll(condition, seconds, state)
    try:
        while True:
            sleep(next(polls))
    except StopIteration as end:
        return cast(T, end.value)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait like `eventually`, while the event loop's other tasks continue."""
    for pause in _poll(condition, seconds, str):
        await asyncio.sleep(pause)


def _poll(
    condition: Callable[[], object], seconds: float, state: Callable[[], object]
) -> Generator[float, None, object]:
    """Yield the pause before each next poll, up to 2 % of the time waited so far; returns the value."""
    start = monotonic()
    while True:
        last: object
        try:
            if last := condition():
                return last
        except OSError as error:
            last = error
        waited = monotonic() - start
        if waited > seconds:
            what = inspect.getsource(condition).strip() if "<lambda>" in str(condition) else str(condition)
            raise AssertionError(f"not within {seconds:g} s: {what}\nlast: {last!r}\n{state()}")
        yield min(0.005 + waited / 50, 0.5)

import asyncio
import inspect
from collections.abc import Callable, Generator
from time import monotonic, sleep
from typing import TypeVar, cast

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], seconds: float = 60, state: Callable[[], object] = str) -> T:
    """Poll until a condition is true, and return its value.

    An `OSError` counts as "not yet true", because a server may not listen yet. After `seconds`, an AssertionError is
    raised with the text of `state`.
    """
    polls = _poll(condition, seconds, state)
    try:
        while True:
            sleep(next(polls))
    except StopIteration as end:
        return cast(T, end.value)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait like `eventually`, but let the event loop's other tasks run."""
    for pause in _poll(condition, seconds, str):
        await asyncio.sleep(pause)


def _poll(
    condition: Callable[[], object], seconds: float, state: Callable[[], object]
) -> Generator[float, None, object]:
    """Yield pauses of at most 2 % of the time waited so far; return the condition's value."""
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

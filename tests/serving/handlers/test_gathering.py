"""Requests that come together share a pass; each gets its own results, its error, or nothing if it gave up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.predictor import gathering
from serving.predictor.gathering import Gathering


class Doubling:
    """Notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        if -1 in items:
            raise ValueError("no number")
        return [2 * item for item in items]


def answers(work: Doubling, requests: Sequence[list[int]]) -> list[list[int] | BaseException]:
    async def all_at_once() -> list[list[int] | BaseException]:
        gathered = Gathering(work)
        return await asyncio.gather(*map(gathered.submit, requests), return_exceptions=True)

    return asyncio.run(all_at_once())


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=90), max_size=9))
def test_each_gets_its_own_results_and_no_pass_is_large(requests: list[list[int]]) -> None:
    work = Doubling()
    assert answers(work, requests) == [[2 * item for item in items] for items in requests]
    assert [item for batch in work.batches for item in batch] == [item for items in requests for item in items]
    # A request alone may be larger, since it has been read whole.
    largest = max(map(len, requests), default=0)
    assert all(len(batch) <= max(gathering._LARGEST, largest) for batch in work.batches)


def test_what_comes_together_shares_a_pass() -> None:
    work = Doubling()
    answers(work, [[1], [2, 3], [4]])
    assert work.batches == [[1, 2, 3, 4]]


def test_an_error_is_told_to_all_of_its_pass_and_to_no_other() -> None:
    work = Doubling()
    large = [0] * gathering._LARGEST
    first, second, third = answers(work, [[-1], [1], large])
    assert isinstance(first, ValueError) and isinstance(second, ValueError)
    assert third == large


@pytest.mark.parametrize(("fault", "words"), [(StopIteration(), "StopIteration"), (None, "1 results for 2 items")])
def test_nobody_waits_for_ever(fault: Exception | None, words: str) -> None:
    def work(items: list[int]) -> list[int]:
        if fault is not None:
            raise fault
        return items[:1]

    async def two() -> list[Any]:
        gathered = Gathering(work)
        return await asyncio.gather(gathered.submit([1]), gathered.submit([2]), return_exceptions=True)

    for error in asyncio.run(asyncio.wait_for(two(), 60)):
        assert isinstance(error, RuntimeError) and words in str(error)


def test_who_gave_up_is_left_out() -> None:
    work = Doubling()

    async def one_gives_up() -> list[int]:
        gathered = Gathering(work)
        gone, stays = (asyncio.create_task(gathered.submit([item])) for item in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(one_gives_up()) == [4]
    assert [item for batch in work.batches for item in batch] in ([2], [1, 2])

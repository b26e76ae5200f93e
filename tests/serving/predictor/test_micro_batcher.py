"""Batches of all that has arrived: everybody gets the answer that is his, and a fault only his own batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.predictor.micro_batcher import MicroBatcher
from tests.serving.router_fixtures import in_loop


def one(_: object) -> int:
    return 1


@in_loop
async def test_what_has_arrived_shares_a_batch_and_who_gave_up_is_left_out() -> None:
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return [10 * item for item in items]

    batcher = MicroBatcher(work, one, largest=10)
    calls = [batcher.submit(item) for item in range(5)]
    calls[3].cancel()
    assert await asyncio.gather(*calls[:3], calls[4]) == [0, 10, 20, 40]
    gone = batcher.submit(5)
    gone.cancel()
    await asyncio.sleep(0)
    assert await batcher.submit(6) == 60
    assert batches == [[0, 1, 2, 4], [6]]


@in_loop
async def test_a_fault_is_that_of_its_batch_and_the_next_one_is_none_the_worse() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 7 in items:
            raise OSError("away")
        return list(items) if 8 not in items else []

    batcher = MicroBatcher(work, one, largest=2)
    found = await asyncio.gather(*map(batcher.submit, (1, 2, 7, 3, 8, 4, 5)), return_exceptions=True)
    assert found[:2] == [1, 2] and found[6] == 5
    assert all(isinstance(error, OSError) for error in found[2:4])
    assert all(isinstance(error, ValueError) for error in found[4:6]), "an answer too few is nobody's"
    with pytest.raises(OSError, match="away"):
        await batcher.submit(7)


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 8))
@settings(deadline=None)
def test_no_batch_is_too_large_and_no_item_gets_lost(sizes: list[int], largest: int) -> None:
    async def scenario() -> None:
        seen: list[int] = []

        def work(items: Sequence[tuple[int, int]]) -> list[int]:
            assert len(items) == 1 or sum(size for _, size in items) <= largest
            seen.extend(number for number, _ in items)
            return [number for number, _ in items]

        batcher = MicroBatcher(work, weight=lambda item: item[1], largest=largest)
        found = await asyncio.gather(*(batcher.submit((number, size)) for number, size in enumerate(sizes)))
        assert found == seen == list(range(len(sizes)))

    asyncio.run(scenario())

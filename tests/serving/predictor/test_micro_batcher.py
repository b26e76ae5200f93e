"""Tests that each caller of a micro-batch gets its own answers and faults."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.predictor.micro_batcher import MicroBatcher


async def test_waiting_calls_share_a_batch_and_cancelled_calls_are_left_out() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return [10 * item for item in items]

    batcher = MicroBatcher(work, largest=10)
    calls = [batcher.submit([item]) for item in range(5)]
    calls[3].cancel()
    assert await asyncio.gather(*calls[:3], calls[4]) == [[0], [10], [20], [40]]
    gone = batcher.submit([5])
    gone.cancel()
    await asyncio.sleep(0)
    assert await batcher.submit([6]) == [60]
    assert batches == [[0, 1, 2, 4], [6]]


async def test_a_fault_affects_its_batch_only() -> None:
    def work(items: list[int]) -> list[int]:
        if 7 in items:
            raise OSError("away")
        return items

    batcher = MicroBatcher(work, largest=2)
    found = await asyncio.gather(*(batcher.submit([item]) for item in (1, 2, 7, 3, 5)), return_exceptions=True)
    assert [found[0], found[1], found[4]] == [[1], [2], [5]]
    assert all(isinstance(error, OSError) for error in found[2:4])
    with pytest.raises(OSError, match="away"):
        await batcher.submit([7])


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 8))
@settings(deadline=None)
def test_no_batch_is_too_large_and_no_item_is_lost(sizes: list[int], largest: int) -> None:
    calls = [[(call, item) for item in range(size)] for call, size in enumerate(sizes)]

    async def scenario() -> None:
        seen: list[tuple[int, int]] = []

        def work(items: list[tuple[int, int]]) -> list[tuple[int, int]]:
            assert len(items) <= largest or len({call for call, _ in items}) == 1
            seen.extend(items)
            return items

        batcher = MicroBatcher(work, largest)
        assert await asyncio.gather(*map(batcher.submit, calls)) == calls
        assert seen == [item for items in calls for item in items]

    asyncio.run(scenario())

"""Batches that gather while others are at work: everybody gets the answer that is his, and a fault only his own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.micro_batcher import MicroBatcher, in_threads
from serving.router.flow.features import FeatureReader, UserFeatures
from serving.router.flow.requests import DecisionRequest
from tests.serving.router_fixtures import CONTEXT, SPEC


def test_what_comes_while_a_batch_is_at_work_shares_the_next_one() -> None:
    async def scenario() -> None:
        batches: list[list[int]] = []
        go = asyncio.Event()

        async def work(items: Sequence[int]) -> list[int | Exception]:
            batches.append(list(items))
            await go.wait()
            return [10 * item for item in items]

        batcher = MicroBatcher(work)
        calls = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batches == [[0]]
        calls[3].cancel()
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*calls[:3], calls[4]) == [0, 10, 20, 40]
        assert batches == [[0], [1, 2, 4]]  # who gave up before it began was left out

    asyncio.run(scenario())


def test_a_fault_is_its_items_own_and_that_of_a_call_everyones() -> None:
    async def scenario() -> None:
        async def work(items: Sequence[int]) -> list[int | Exception]:
            if 7 in items:
                raise OSError("away")
            return [ValueError(str(item)) if item == 2 else item for item in items]

        batcher = MicroBatcher(work)
        found = await asyncio.gather(*map(batcher.submit, (1, 2, 3)), return_exceptions=True)
        assert found[0] == 1 and isinstance(found[1], ValueError) and found[2] == 3
        found = await asyncio.gather(*map(batcher.submit, (4, 7, 8)), return_exceptions=True)
        assert found[0] == 4 and all(isinstance(error, OSError) for error in found[1:])
        assert await batcher.submit(5) == 5  # and it goes on

    asyncio.run(scenario())


def test_whoever_gives_up_while_his_batch_is_at_work_stops_nobody() -> None:
    async def scenario() -> None:
        go = threading.Event()

        def work(items: Sequence[int]) -> list[int | Exception]:
            go.wait(60)
            return list(items)

        with ThreadPoolExecutor(1) as pool:
            batcher = MicroBatcher(in_threads(work, pool))
            first = asyncio.create_task(batcher.submit(1))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await batcher.submit(2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await first
            go.set()
            assert await batcher.submit(3) == 3

    asyncio.run(scenario())


def test_a_batch_that_nobody_waits_for_holds_no_place() -> None:
    """An arm that never answers would else take a place for each batch that it gets, until there is none."""

    async def scenario() -> None:
        cancelled: list[Sequence[str]] = []

        async def work(items: Sequence[str]) -> list[str | Exception]:
            try:
                await asyncio.sleep(0.0 if items[0].startswith("good") else 3600.0)
            except asyncio.CancelledError:
                cancelled.append(items)
                raise
            return list(items)

        async def hopeful(item: str, seconds: float) -> str:
            async with asyncio.timeout(seconds):
                return await batcher.submit(item)

        batcher = MicroBatcher(work, at_once=2, largest=1)
        calls = [hopeful(f"hangs {i}", 0.01 * (i + 1)) for i in range(4)]
        found = await asyncio.gather(*calls, hopeful("good", 60.0), return_exceptions=True)
        assert all(isinstance(error, TimeoutError) for error in found[:4]) and found[4] == "good"
        assert await batcher.submit("good again") == "good again"
        assert len(cancelled) >= 2
        gone = asyncio.create_task(batcher.submit("good, and gone before it begins"))
        await asyncio.sleep(0)
        gone.cancel()
        # Both places are free: one batch hangs, and another one is answered all the same.
        hangs = asyncio.create_task(batcher.submit("hangs"))
        assert await batcher.submit("good again") == "good again"
        hangs.cancel()

    asyncio.run(scenario())


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 3), st.integers(1, 8))
@settings(deadline=None)
def test_no_batch_is_too_large_and_no_item_gets_lost(sizes: list[int], at_once: int, largest: int) -> None:
    async def scenario() -> None:
        running, most_running = 0, 0
        seen: list[int] = []

        async def work(items: Sequence[tuple[int, int]]) -> list[int | Exception]:
            nonlocal running, most_running
            running += 1
            most_running = max(most_running, running)
            assert len(items) == 1 or sum(size for _, size in items) <= largest
            seen.extend(number for number, _ in items)
            await asyncio.sleep(0)
            running -= 1
            return [number for number, _ in items]

        batcher = MicroBatcher(work, at_once, weight=lambda item: item[1], largest=largest)
        found = await asyncio.gather(*(batcher.submit((number, size)) for number, size in enumerate(sizes)))
        assert found == seen == list(range(len(sizes))) and most_running <= at_once

    asyncio.run(scenario())


def test_a_request_that_breaks_the_store_breaks_no_other() -> None:
    class Source:
        def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
            if any(request.user_id == "bad" for request in requests):
                raise ValueError("bad")
            return [UserFeatures({}, {"age": request.user_id}, has_history=True) for request in requests]

    def of(*users: str) -> list[DecisionRequest]:
        return [DecisionRequest(user, "c", CONTEXT, at=0) for user in users]

    async def scenario() -> None:
        reader = FeatureReader(Source(), SPEC)
        groups = [of("a"), of("b", "c"), of("d", "bad"), of("e")]
        found: list[Any] = await asyncio.gather(*(reader.read(group) for group in groups * 3), return_exceptions=True)
        for group, answer in zip(groups * 3, found, strict=True):
            if group == groups[2]:
                assert isinstance(answer, ValueError)
            else:
                users = [model_input.window["static"]["age"] for model_input in answer]
                assert users == [request.user_id for request in group]
        reader.close()

    asyncio.run(scenario())

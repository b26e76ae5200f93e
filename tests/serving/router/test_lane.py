"""Lanes: a thread takes all that waits, what hangs is taken over in time, and no decision is changed by two."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.router.flow import lane as lanes
from serving.router.flow.lane import Job, Lane, TakenOver
from serving.router.flow.stages import Deadline

LONG = 60.0  # a deadline that nobody reaches


class Decision:
    """In place of a decision: who has changed it."""

    def __init__(self, deadline: Deadline) -> None:
        self.changes: list[str] = []
        self.deadline = deadline


def job(seconds: float = LONG, decisions: int = 1) -> Job:
    deadline = Deadline(seconds)
    return Job([Decision(deadline) for _ in range(decisions)])  # type: ignore[misc]


def changes(of: Job) -> list[str]:
    return [change for decision in of.decisions for change in decision.changes]  # type: ignore[attr-defined]


def calling(call: Callable[[], object], seconds: float = LONG) -> Callable[[Sequence[Job]], None]:
    """A walk of one stage."""

    def walk(jobs: Sequence[Job]) -> None:
        for one in jobs:
            one.begin("model", min(seconds, one.deadline.left("model")))
        call()
        for one in jobs:
            if one.end():
                changes_of(one, "thread")

    return walk


def changes_of(one: Job, who: str) -> None:
    for decision in one.decisions:
        decision.changes.append(who)  # type: ignore[attr-defined]


def test_what_waits_shares_a_batch() -> None:
    async def scenario() -> None:
        batches: list[int] = []
        first, go = threading.Event(), threading.Event()

        def walk(jobs: Sequence[Job]) -> None:
            batches.append(len(jobs))
            first.set()
            go.wait(LONG)

        one = Lane("test", walk)
        held = [asyncio.create_task(one.put(job())) for _ in range(2)]
        await asyncio.to_thread(first.wait, LONG)
        while sum(batches) < 2:  # both threads have work
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(one.put(job())) for _ in range(30)]
        large = asyncio.create_task(one.put(job(decisions=100)))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*held, *rest, large)
        one.close()
        assert sum(batches) == 33 and len(batches) <= 6, batches

    asyncio.run(scenario())


def test_what_hangs_is_taken_over_and_another_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_MOST_STUCK", 3)

    async def scenario() -> None:
        hanging, go = threading.Event(), threading.Event()
        calls: list[str] = []

        def call() -> None:
            calls.append(threading.current_thread().name)
            if hanging.is_set():
                go.wait(LONG)

        one = Lane("test", calling(call, seconds=0.02))
        hanging.set()
        late = [job() for _ in range(3)]
        for each in late:
            with pytest.raises(TakenOver) as over:
                await one.put(each)
            assert over.value.calling == "model"
            changes_of(each, "loop")
        hanging.clear()
        well = job()
        await one.put(well)  # three threads hang, and a fourth one works
        assert changes(well) == ["thread"]
        go.set()
        await asyncio.to_thread(one._pool.shutdown)  # until all threads are back
        assert [changes(each) for each in late] == [["loop"]] * 3, "who comes back late changes nothing"

    asyncio.run(scenario())


def test_no_more_threads_than_a_few_hang_in_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_MOST_STUCK", 2)

    async def scenario() -> None:
        go = threading.Event()
        inside: list[int] = []

        def call() -> None:
            inside.append(1)
            go.wait(LONG)

        one = Lane("test", calling(call, seconds=0.01))
        for _ in range(12):
            with pytest.raises(TakenOver) as over:
                await one.put(job(seconds=0.05))
        assert over.value.calling is None, "the last ones did not even get a thread"
        assert len(inside) <= 2 + lanes._AT_ONCE
        go.set()
        well = job()
        await one.put(well)
        assert changes(well) == ["thread"]
        one.close()

    asyncio.run(scenario())


def test_a_job_is_not_taken_while_a_thread_changes_it() -> None:
    async def scenario() -> None:
        changing = threading.Event()

        def walk(jobs: Sequence[Job]) -> None:
            changing.set()
            time.sleep(0.1)  # far beyond the deadline
            changes_of(jobs[0], "thread")

        one, slow = Lane("test", walk), job(seconds=0.01)
        await one.put(slow)
        assert changing.is_set() and changes(slow) == ["thread"]
        one.close()

    asyncio.run(scenario())


def test_a_bug_is_told_to_all_of_the_batch_and_the_thread_goes_on() -> None:
    async def scenario() -> None:
        broken = [True]

        def walk(jobs: Sequence[Job]) -> None:
            if broken:
                raise ZeroDivisionError
            for each in jobs:
                changes_of(each, "thread")

        one = Lane("test", walk)
        with pytest.raises(ZeroDivisionError):
            await one.put(job())
        broken.clear()
        well = job()
        await one.put(well)
        assert changes(well) == ["thread"]
        one.close()

    asyncio.run(scenario())


@given(st.lists(st.tuples(st.floats(0.0, 0.004), st.floats(0.0, 0.004)), max_size=20))
@settings(deadline=None, max_examples=20)
def test_each_job_is_either_the_threads_or_the_loops(times: list[tuple[float, float]]) -> None:
    """Whatever the time that a call takes and the time that it may take."""

    async def scenario() -> None:
        jobs = [(job(), takes, may_take) for takes, may_take in times]
        of = {id(one): (takes, may_take) for one, takes, may_take in jobs}

        def walk(batch: Sequence[Job]) -> None:
            for one in batch:
                takes, may_take = of[id(one)]
                one.begin("model", may_take)
                time.sleep(takes)
                if one.end():
                    changes_of(one, "thread")

        lane = Lane("test", walk)

        async def put(one: Job) -> Any:
            try:
                await lane.put(one)
            except TakenOver:
                changes_of(one, "loop")

        await asyncio.gather(*(put(one) for one, *_ in jobs))
        await asyncio.to_thread(lane._pool.shutdown)
        assert all(len(changes(one)) == 1 for one, *_ in jobs)

    asyncio.run(scenario())

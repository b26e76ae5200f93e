"""Lanes: a thread takes all that waits, what hangs is taken over in time, and no decision is changed by two."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.router.flow import lane as lanes
from serving.router.flow.admission import Deadline
from serving.router.flow.lane import Job, Lane, NotCalled
from serving.router.flow.stages import Breaker, Pipeline, Stage
from serving.router.ops.drills import Drills
from serving.router.ops.health import Health
from tests.serving.router_fixtures import in_loop

LONG = 60.0  # a deadline that nobody reaches


class Decision:
    """In place of a decision: who has changed it."""

    def __init__(self, deadline: Deadline) -> None:
        self.changes: list[str] = []
        self.deadline = deadline
        self.account, self.arm, self.experiment, self.span, self.traits = "test/a", "a", None, None, dict


def job(seconds: float = LONG, decisions: int = 1) -> Job:
    deadline = Deadline(seconds)
    return Job([Decision(deadline) for _ in range(decisions)])  # type: ignore[misc]


def changes(of: Job) -> list[str]:
    return [change for decision in of.decisions for change in decision.changes]  # type: ignore[attr-defined]


def calling(call: Callable[[Job], object]) -> Callable[[Sequence[Job]], None]:
    """Works on jobs as a pipeline of one stage does, whose call is `call`."""

    def walk(jobs: Sequence[Job]) -> None:
        for one in jobs:
            with one.lock:
                if not one.taken:
                    one.waits_for("model", calling=True)
            call(one)
            with one.lock:
                if not one.taken:
                    changes_of(one, "thread")
                    one.finish()

    return walk


def changes_of(one: Job, who: str) -> None:
    for decision in one.decisions:
        decision.changes.append(who)  # type: ignore[attr-defined]


@in_loop
async def test_what_waits_shares_a_batch() -> None:
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


@in_loop
async def test_what_hangs_is_taken_over_and_another_thread_goes_on() -> None:
    hanging, go = threading.Event(), threading.Event()

    def call(_: Job) -> None:
        if hanging.is_set():
            go.wait(LONG)

    one = Lane("test", calling(call))
    hanging.set()
    late = [job(seconds=0.03) for _ in range(5)]
    for each in late:
        with pytest.raises(TimeoutError):
            await one.put(each)
        changes_of(each, "loop")
    hanging.clear()
    well = job()
    await one.put(well)  # five threads hang, and another one works
    assert changes(well) == ["thread"]
    go.set()
    await asyncio.to_thread(one._pool.shutdown)  # until all threads are back
    assert [changes(each) for each in late] == [["loop"]] * 5, "who comes back late changes nothing"


@in_loop
async def test_when_all_threads_of_a_lane_hang_nobody_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_THREADS", 3)
    go = threading.Event()
    inside: list[int] = []

    def call(_: Job) -> None:
        inside.append(1)
        go.wait(LONG)

    one = Lane("test", calling(call))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await one.put(job(seconds=0.03))
    for _ in range(5):
        with pytest.raises(NotCalled):
            await one.put(job())
    assert len(inside) == 3 and one.busy
    go.set()
    while one.busy:
        await asyncio.sleep(0.001)
    well = job()
    await one.put(well)
    assert changes(well) == ["thread"]
    one.close()


@in_loop
async def test_a_job_is_not_taken_while_a_thread_changes_it() -> None:
    changing = threading.Event()

    def walk(jobs: Sequence[Job]) -> None:
        with jobs[0].lock:
            changing.set()
            time.sleep(0.1)  # far beyond the deadline
            changes_of(jobs[0], "thread")
            jobs[0].finish()

    one, slow = Lane("test", walk), job(seconds=0.01)
    await one.put(slow)
    assert changing.is_set() and changes(slow) == ["thread"]
    one.close()


@in_loop
async def test_a_bug_is_told_to_all_of_the_batch_and_the_thread_goes_on() -> None:
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


def test_whom_a_stage_does_not_concern_does_not_wait_for_it() -> None:
    """A ledger hangs for one that is to be exposed; one that is not shares its batch."""
    hangs, go, exposed, other = threading.Event(), threading.Event(), job(), job()

    class Ledger(Stage):
        name = "ledger"

        def concerns(self, decision: Any) -> bool:
            return decision in exposed.decisions

        def ask(self, decision: Any) -> Any:
            return decision

        def call(self, asked: Any, seconds: float, spans: Any) -> list[bool]:
            hangs.set()
            go.wait(LONG)
            return [True]

        def take(self, decision: Any, answer: bool) -> None: ...

        def fail(self, decisions: Any, why: Exception) -> None: ...

    pipeline = Pipeline([Ledger()], Health(), Drills(), defaultdict(Breaker))
    thread = threading.Thread(target=pipeline, args=([exposed, other],))
    thread.start()
    try:
        assert hangs.wait(LONG) and exposed.calling and not other.calling
    finally:
        go.set()
        thread.join()


def test_no_answer_waits_for_the_last_call_of_another_arm() -> None:
    """Arms share the lanes of repeated answers and of jobs that were taken over; nobody watches a finished job."""
    calls: list[int] = []

    class Ledger(Stage):
        name = "ledger"

        def concerns(self, decision: Any) -> bool:
            return True

        def ask(self, decision: Any) -> Any: ...

        def call(self, asked: Any, seconds: float, spans: Any) -> list[bool]:
            calls.append(len(asked))
            return [True] * len(asked)

        def fail(self, decisions: Any, why: Exception) -> None: ...

    one, other = job(), job()
    other.decisions[0].arm = "b"
    Pipeline([Ledger()], Health(), Drills(), defaultdict(Breaker))([one, other])
    assert calls == [2]


def test_a_job_that_ends_as_its_time_is_up_is_not_taken_over() -> None:
    late = job(seconds=0.001)
    time.sleep(0.01)

    class Lock:
        def acquire(self, blocking: bool) -> bool:
            late.finish()  # by the thread, since the event loop has looked at the time
            return True

        def release(self) -> None: ...

    late.lock = Lock()  # type: ignore[assignment]
    assert late.left < 0
    assert not late.take_over() and not late.taken


@given(st.lists(st.tuples(st.floats(0.0, 0.004), st.floats(0.001, 0.008)), max_size=20))
@settings(max_examples=20)
def test_each_job_is_either_the_threads_or_the_loops(times: list[tuple[float, float]]) -> None:
    """Whatever the time that a call takes and the time that it may take."""

    async def scenario() -> None:
        takes = {job(seconds=may_take): takes for takes, may_take in times}
        lane = Lane("test", calling(lambda one: time.sleep(takes[one])))

        async def put(one: Job) -> None:
            try:
                await lane.put(one)
            except (NotCalled, TimeoutError):
                changes_of(one, "loop")

        await asyncio.gather(*map(put, takes))
        await asyncio.to_thread(lane._pool.shutdown)
        assert all(len(changes(one)) == 1 for one in takes)

    asyncio.run(scenario())

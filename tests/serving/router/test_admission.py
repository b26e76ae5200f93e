"""How many requests are worked on at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.router.flow.admission import CURRENT, Admission, Saturated


@given(
    st.integers(1, 12),
    st.sampled_from([0.0, 10.0]),
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.001, 0.04, 0.2])), max_size=100),
)
@settings(deadline=None)
def test_never_more_than_the_limit_and_the_limit_stays_within_bounds(
    most: int, patience: float, steps: list[tuple[bool, float]]
) -> None:
    async def scenario() -> None:
        clock = [0.0]
        ends: list[asyncio.Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])
            patch.setattr("serving.router.flow.admission.PATIENCE", patience)
            admission = Admission(most, 0.1)

            async def guest(end: asyncio.Event) -> None:
                async with admission.admit():
                    await end.wait()

            tasks = []
            for comes, seconds in steps:
                clock[0] += seconds
                before = admission.inside
                if comes:
                    ends.append(asyncio.Event())
                    tasks.append(asyncio.create_task(guest(ends[-1])))
                elif ends:
                    ends.pop(0).set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert 0 <= admission.inside <= most
                assert admission.inside <= max(before, int(admission.limit))
                assert min(4, most) <= admission.limit <= most
            for end in ends:
                end.set()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert found is None or isinstance(found, Saturated)
            assert admission.inside == 0 and admission.waiting == 0

    asyncio.run(scenario())


def test_who_finds_no_room_waits_in_turn_and_not_for_long() -> None:
    async def scenario() -> None:
        admission = Admission(1, 10.0)  # room is waited for 2 s
        order: list[str] = []
        end = asyncio.Event()

        async def guest(name: str) -> None:
            async with admission.admit():
                order.append(name)
                await end.wait()

        tasks = [asyncio.create_task(guest(name)) for name in "abc"]
        await asyncio.sleep(0.01)
        assert order == ["a"] and admission.inside == 1
        gone = asyncio.create_task(guest("gone"))
        await asyncio.sleep(0)
        gone.cancel()
        end.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        end.clear()
        busy = asyncio.create_task(guest("busy"))
        await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        with pytest.raises(Saturated):
            await guest("late")
        assert asyncio.get_running_loop().time() - started > 1.9
        end.set()
        await busy
        assert admission.inside == 0 and admission.waiting == 0

    asyncio.run(scenario())


def test_whoever_is_sent_away_and_gone_at_once_had_no_place() -> None:
    async def scenario() -> None:
        admission = Admission(1, 0.05)
        async with admission.admit():
            late = asyncio.create_task(admission.admit().__aenter__())
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.03, late.cancel)
            # Both timers are due when the loop goes on: the refusal, then the cancellation, before the task wakes.
            time.sleep(0.1)
            with pytest.raises((asyncio.CancelledError, Saturated)):
                await late
            assert admission.inside == 1
        assert admission.inside == 0

    asyncio.run(scenario())


def test_the_limit_falls_when_answers_are_late_and_rises_again() -> None:
    async def scenario() -> None:
        admission, clock = Admission(40, 0.1), [0.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])

            async def together(count: int, seconds: float) -> None:
                async with AsyncExitStack() as guests:
                    for _ in range(count):
                        await guests.enter_async_context(admission.admit())
                    clock[0] += seconds
                clock[0] += 0.001

            for _ in range(300):
                await together(7, 0.01)
            assert admission.limit == pytest.approx(14, abs=1)  # no more than is used, twice
            limit = admission.limit
            await together(10, 0.11)  # held up until the deadline, and a little over it
            assert admission.limit == limit
            await together(10, 0.2)
            assert admission.limit == pytest.approx(0.9 * limit)  # late together: one sign, not twenty
            for _ in range(30):
                await together(4, 0.2)
            assert admission.limit == 4
            for _ in range(2000):
                await together(int(admission.limit), 0.01)
            assert admission.limit == 40

    asyncio.run(scenario())


def test_strain_lowers_the_limit_only_where_others_wait_and_not_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.admission.PATIENCE", 100.0)

    async def scenario() -> None:
        admission = Admission(64, 0.05)
        admission.limit = 40.0

        async def strained() -> None:
            async with admission.admit():
                await asyncio.sleep(0)
                request = CURRENT.get()
                assert request is not None
                request.strained = True

        await asyncio.gather(*(strained() for _ in range(30)))
        assert admission.limit == 40
        await asyncio.gather(*(strained() for _ in range(400)))
        assert admission.limit == 8

    asyncio.run(scenario())


def test_slow_answers_are_a_strain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.router.flow.admission.PATIENCE", 100.0)
    monkeypatch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])

    async def scenario() -> None:
        admission = Admission(64, 0.05)

        async def round_of(guests: int) -> None:
            end = asyncio.Event()

            async def guest() -> None:
                async with admission.admit():
                    await end.wait()

            tasks = [asyncio.create_task(guest()) for _ in range(guests)]
            await asyncio.sleep(0)
            clock[0] += 0.03  # of 0.05
            end.set()
            await asyncio.gather(*tasks)

        admission.limit = 20.0
        await round_of(20)
        assert admission.limit == 20  # nobody waited
        for _ in range(100):
            await round_of(30)
        assert admission.limit < 13

    asyncio.run(scenario())

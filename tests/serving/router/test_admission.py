import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.router.flow.admission import CURRENT, Admission, Saturated


async def stay(admission: Admission, end: asyncio.Event) -> None:
    async with admission.admit():
        await end.wait()


@given(
    st.integers(1, 12),
    st.sampled_from([0.0, 10.0]),
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.001, 0.04, 0.2])), max_size=100),
)
@settings(deadline=None)
def test_concurrency_and_the_limit_stay_within_bounds(
    most: int, patience: float, steps: list[tuple[bool, float]]
) -> None:
    async def scenario() -> None:
        clock = [0.0]
        ends: list[asyncio.Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])
            patch.setattr("serving.router.flow.admission.PATIENCE", patience)
            admission, tasks = Admission(most, 0.1), []
            for comes, seconds in steps:
                clock[0] += seconds
                before = admission.inside
                if comes:
                    ends.append(asyncio.Event())
                    tasks.append(asyncio.create_task(stay(admission, ends[-1])))
                elif ends:
                    ends.pop(0).set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert 0 <= admission.inside <= most
                assert admission.inside <= max(before, int(admission.limit))
                assert 1 <= admission.limit <= most
                assert 0 < admission.target < 0.1
            for end in ends:
                end.set()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert found is None or isinstance(found, Saturated)
            assert admission.inside == 0 and not admission._waiting

    asyncio.run(scenario())


async def test_a_request_without_room_waits_in_order_for_a_limited_time() -> None:
    # Requests may wait up to 1.5 s for admission.
    admission = Admission(1, 10.0)
    order: list[str] = []
    end = asyncio.Event()

    async def guest(name: str) -> None:
        async with admission.admit():
            order.append(name)
            await end.wait()

    *tasks, gone = [asyncio.create_task(guest(name)) for name in ("a", "b", "c", "gone")]
    await asyncio.sleep(0.01)
    assert order == ["a"] and admission.inside == 1
    gone.cancel()
    end.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    async with admission.admit():
        started = asyncio.get_running_loop().time()
        with pytest.raises(Saturated):
            await guest("late")
        assert asyncio.get_running_loop().time() - started > 1.4
    assert admission.inside == 0 and not admission._waiting


async def test_a_wait_that_times_out_and_is_cancelled_takes_no_room() -> None:
    admission = Admission(1, 0.05)
    async with admission.admit():
        late = asyncio.create_task(admission.admit().__aenter__())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.03, late.cancel)
        # Both timers are due when the loop continues.
        time.sleep(0.1)
        with pytest.raises((asyncio.CancelledError, Saturated)):
            await late
        assert admission.inside == 1
    assert admission.inside == 0


async def test_a_request_that_is_cancelled_at_its_turn_passes_its_room_on() -> None:
    admission = Admission(1, 10.0)
    first, *others = [admission.admit() for _ in range(3)]
    await first.__aenter__()
    gone, following = (asyncio.create_task(other.__aenter__()) for other in others)
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)
    # The request of `gone` was admitted, but its task has not run since.
    gone.cancel()
    await following
    assert gone.cancelled() and admission.inside == 1


class Rounds:
    """Sends groups of requests that begin and end together, on a fake clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 64) -> None:
        self.now = 0.0
        monkeypatch.setattr("serving.router.flow.admission.perf_counter", lambda: self.now)
        self.admission = Admission(most, 0.05)

    async def of(self, count: int, seconds: float, late: bool = False, failed: bool = False) -> None:
        async with AsyncExitStack() as guests:
            for _ in range(count):
                await guests.enter_async_context(self.admission.admit())
                vars(CURRENT.get()).update(late=late, failed=failed)
            self.now += seconds
        self.now += 0.0001

    async def all_there_is(self, times: int, seconds: float, **marks: bool) -> None:
        for _ in range(times):
            await self.of(int(self.admission.limit), seconds, **marks)


async def test_faults_and_delays_without_load_do_not_change_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch)
    limit, target = rounds.admission.limit, rounds.admission.target
    # Failed calls are fast under any load, so they say nothing about the capacity.
    await rounds.all_there_is(100, 0.001, failed=True)
    for _ in range(100):
        await rounds.of(1, 0.2, late=True)  # a delay on an idle host
    assert (rounds.admission.limit, rounds.admission.target) == (limit, target)


@given(st.lists(st.floats(0.001, 0.2), max_size=6))
@settings(deadline=None)
def test_late_answers_within_a_deadline_cut_the_limit_once(gaps: list[float]) -> None:
    async def scenario(rounds: Rounds) -> None:
        admission, ends, events = rounds.admission, 0.0, 0
        admission.limit = 64.0
        for gap in gaps:
            if rounds.now + gap >= ends:
                events, ends = events + 1, rounds.now + gap + 0.05
            await rounds.of(2, gap, late=True)
            assert admission.limit == pytest.approx(max(64 * 0.6**events, 1))
            assert admission.target == pytest.approx(max(0.025 * 0.9**events, 0.0125))

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(scenario(Rounds(patch)))


async def test_a_low_limit_is_forgotten_in_a_quiet_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch)
    await rounds.all_there_is(200, 0.06, late=True)
    assert rounds.admission.limit == 1
    rounds.now += 60
    await rounds.of(8, 0.01)
    assert rounds.admission.limit > 7


async def test_a_request_that_would_wait_too_long_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch, most=8)
    # If 8 requests end every 12 ms, about 5 end within 7.5 ms, the longest wait.
    await rounds.all_there_is(200, 0.012)
    admission, end = rounds.admission, asyncio.Event()
    guests = [asyncio.create_task(stay(admission, end)) for _ in range(20)]
    await asyncio.sleep(0)
    assert (admission.inside, len(admission._waiting), admission.full) == (8, 5, True)
    end.set()
    found = await asyncio.gather(*guests, return_exceptions=True)
    assert sum(isinstance(one, Saturated) for one in found) == 7 and not admission.full

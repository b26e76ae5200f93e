"""Under overload, what is answered is answered in full: on a fast machine and on a slow one, and while that changes."""

from __future__ import annotations

import pytest

from tests.serving.router.admission_simulation import DEADLINE, Answers, Machine, simulate

MOST_DEFAULT = 0.01  # of the answers
GOODPUT = 0.9  # of the best closed loop's


def peak(machine: Machine) -> float:
    return max(simulate(machine, 3, clients, warm=1.0).goodput for clients in (2, 4, 8, 16, 32))


def overloaded(machine: Machine, seconds: float, seed: int = 0) -> tuple[Answers, float]:
    """Answers at twice the capacity, and their goodput relative to the peak."""
    best = peak(machine)
    answers = simulate(machine, seconds, rate=lambda now: 2 * best, seed=seed)
    return answers, answers.goodput / best


@pytest.mark.parametrize("speed", [2.0, 1.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_at_twice_the_capacity_answers_are_in_full_and_few_are_lost(speed: float, seed: int) -> None:
    answers, share = overloaded(Machine(lambda now: speed), 15, seed)
    assert answers.default_share <= MOST_DEFAULT and share >= GOODPUT and answers.p99 <= DEADLINE


def test_a_machine_that_stands_still_now_and_then_loses_little_more() -> None:
    answers, share = overloaded(Machine(stall=0.04, stalls=0.5), 20)
    assert answers.default_share <= MOST_DEFAULT and share >= GOODPUT and answers.p99 <= DEADLINE


@pytest.mark.parametrize("speed", [0.2, 0.1])
def test_a_machine_on_which_a_few_requests_fill_the_deadline_still_answers_in_full(speed: float) -> None:
    """Here two or three requests are all that fit, so the closed loops' batches can't be had: less goodput, no more."""
    answers, share = overloaded(Machine(lambda now: speed), 30)
    assert answers.default_share <= MOST_DEFAULT and share >= 0.5 and answers.p99 <= DEADLINE


def test_a_change_of_speed_costs_few_answers_and_is_followed_at_once() -> None:
    speeds = (1.0, 0.5, 0.1, 1.0, 0.5, 1.0)

    def speed(now: float) -> float:
        return speeds[min(int(now // 4), len(speeds) - 1)]

    answers = simulate(Machine(speed), 24, rate=lambda now: 1500.0, warm=0.0)
    assert answers.default_share <= 0.015 and answers.p99 <= DEADLINE
    recovered = simulate(Machine(lambda now: 0.1 if now < 4 else 1.0), 1, rate=lambda now: 2400.0, warm=4.5)
    assert recovered.goodput >= 0.85 * peak(Machine())  # half a second later


def test_a_part_that_hangs_for_some_requests_does_not_keep_the_others_out() -> None:
    """A tenth of the requests wait until their time is over, for as long as nothing leaves the part alone."""
    healthy = simulate(Machine(), 10, rate=lambda now: 800.0)
    answers = simulate(Machine(hangs=lambda now, chance: chance.random() < 0.1), 10, rate=lambda now: 800.0)
    assert answers.full >= 0.8 * 0.9 * healthy.full
    # It hung for everybody and for a quarter of a second, then it was left alone: all is as before half a second later.
    after = simulate(Machine(hangs=lambda now, _: 3 < now < 3.25), 1, rate=lambda now: 800.0, warm=3.75)
    assert after.default_share <= MOST_DEFAULT and after.goodput >= 0.9 * healthy.goodput


def test_clients_that_ask_again_at_once_do_not_keep_the_machine_busy_with_refusals() -> None:
    assert simulate(Machine(), 5, clients=64).goodput >= GOODPUT * peak(Machine())

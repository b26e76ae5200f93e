"""Tests that an overloaded router gives most requests a full answer in time."""

import pytest

from tests.properties import examples
from tests.serving.router.admission_simulation import DEADLINE, Answers, Machine, simulate

MOST_DEFAULT = 0.01  # of the answers
GOODPUT = 0.9  # of the peak


def peak(machine: Machine) -> float:
    """Return the highest goodput of 2 to 32 clients in a closed loop: answers without default actions per second."""
    return max(simulate(machine, 3, clients, warm=1.0).goodput for clients in (2, 4, 8, 16, 32))


def overloaded(machine: Machine, seconds: float, seed: int = 0) -> tuple[Answers, float]:
    """Return the answers at twice the capacity, and their goodput relative to the highest at lower loads."""

    def offered(rate: float) -> Answers:
        return simulate(machine, seconds, rate=lambda now: rate, seed=seed)

    closed = peak(machine)
    goodput = {rate: offered(rate).goodput for rate in (load * closed for load in (0.5, 0.75, 1.0, 1.25, 1.5))}
    twice = 2 * max(goodput.values())
    answers = offered(twice)
    return answers, answers.goodput / max(full for rate, full in goodput.items() if rate < twice)


@pytest.mark.parametrize("speed", [2.0, 1.0, 0.5, 0.2, 0.1])
@pytest.mark.parametrize("seed", range(examples(1, 2)))
def test_at_twice_the_capacity_answers_are_in_full_and_few_are_lost(speed: float, seed: int) -> None:
    """On the slowest machine, two or three concurrent requests already take as long as the deadline."""
    answers, share = overloaded(Machine(lambda now: speed), 12 / min(speed, 1.0), seed)
    assert answers.default_share <= MOST_DEFAULT and share >= GOODPUT and answers.p99 <= DEADLINE


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_slow_machine_learns_below_its_capacity_what_fits(load: float) -> None:
    """Three requests at once are too many for this machine, but the first limit is eight."""
    answers = simulate(Machine(lambda now: 0.1), 120, rate=lambda now: load * 40, warm=240.0)
    assert answers.default_share <= MOST_DEFAULT


def test_a_change_of_speed_costs_few_answers_and_is_followed_at_once() -> None:
    speeds = (1.0, 0.5, 0.1, 1.0, 0.5, 1.0)

    def speed(now: float) -> float:
        return speeds[min(int(now // 4), len(speeds) - 1)]

    answers = simulate(Machine(speed), 24, rate=lambda now: 1500.0, warm=0.0)
    assert answers.default_share <= 0.015 and answers.p99 <= DEADLINE
    recovered = simulate(Machine(lambda now: 0.1 if now < 4 else 1.0), 1, rate=lambda now: 2400.0, warm=4.5)
    assert recovered.goodput >= 0.85 * peak(Machine())  # half a second after the change


@pytest.mark.parametrize(("share", "rate"), [(0.1, 800.0), (0.25, 200.0), (0.25, 800.0)])
def test_a_part_that_hangs_for_some_requests_does_not_block_the_others(share: float, rate: float) -> None:
    healthy = simulate(Machine(), 10, rate=lambda now: rate)
    answers = simulate(Machine(hangs=lambda now, chance: chance.random() < share), 10, rate=lambda now: rate)
    assert answers.full >= (1 - share) * 0.9 * healthy.full


def test_goodput_recovers_within_half_a_second_after_a_part_has_hung() -> None:
    """The part hangs for 0.25 s, too short for its circuit breaker to open."""
    healthy = simulate(Machine(), 10, rate=lambda now: 800.0)
    after = simulate(Machine(hangs=lambda now, _: 3 < now < 3.25), 1, rate=lambda now: 800.0, warm=3.75)
    assert after.default_share <= MOST_DEFAULT and after.goodput >= 0.9 * healthy.goodput


@pytest.mark.parametrize(("stalls", "seconds"), [(0.5, 0.06), (2.0, 0.06), (2.0, 0.025)])
def test_stalls_cost_little_more_than_what_is_in_flight(stalls: float, seconds: float) -> None:
    machine = Machine(stalls=stalls, stall_seconds=seconds)
    learned, best = (simulate(machine, 8, rate=lambda now: 4000.0, fixed=limit) for limit in (0, 16))
    assert learned.goodput >= GOODPUT * best.goodput and learned.default_share <= best.default_share


def test_clients_that_retry_at_once_do_not_keep_the_machine_busy_with_refusals() -> None:
    assert simulate(Machine(), 5, clients=64).goodput >= GOODPUT * peak(Machine())

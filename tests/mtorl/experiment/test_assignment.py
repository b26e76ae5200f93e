"""Tests that assignments never change between releases, and that an edit moves few users."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtorl.experiment.assignment import assign, draw, uniform

TEXT = st.text(max_size=12)
KEY = ("arm", "a", "b")
UNITS = 1_000_000
ARMS = ("incumbent", "b", "c")


@pytest.mark.parametrize(
    ("salt", "unit", "point"),
    [
        ("salt", "user42", 0.21469807092357984),
        ("s", "", 0.6998565084117099),
        ("mtorl-7", "u1", 0.8862814265792128),
        ("sál", "日本", 0.9776758207825481),
    ],
)
def test_golden_points(salt: str, unit: str, point: float) -> None:
    assert uniform(salt, unit) == point


def test_golden_arms() -> None:
    two = "".join(assign(("golden",), f"user-{i}", {"i": 0.9, "c": 0.1}) for i in range(60))
    assert two == "iiiiiiiiicciiciiiiiiiiiiiiiiiiiiiiiiiciiiiiiiiciciiiiiiiiiic"
    three = "".join(assign(("golden",), f"user-{i}", {"i": 0.5, "b": 0.3, "c": 0.2}) for i in range(60))
    assert three == "bibibbciicbbcciibiiiibicibbiiiiiiiiiicbibbbbiibicbiiibbiibic"


def test_golden_draw() -> None:
    assert draw("e", "s", "u1", "spring", "r1") == 0.6011374315051066
    assert draw("e", "s", "u1", "spring", "d1") == 0.3625500479773278
    assert draw("e", "s", "u1", "spring", "r1", "explore") == 0.7415834422056553, "exploration has its own draw"


@settings(max_examples=100)
@given(st.lists(TEXT, min_size=5, max_size=5), st.integers(0, 4), TEXT)
def test_the_draw_depends_on_every_part_of_a_request(parts: list[str], place: int, other: str) -> None:
    changed = [*parts[:place], other, *parts[place + 1 :]]
    assert (draw(*parts) == draw(*changed)) == (parts == changed)


@settings(max_examples=100)
@given(TEXT, TEXT)
def test_points_are_in_the_half_open_interval(salt: str, unit: str) -> None:
    assert 0 <= uniform(salt, unit) < 1


@settings(max_examples=100)
@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4))
def test_different_splits_into_parts_give_different_points(left: list[str], right: list[str]) -> None:
    assert (uniform(*left) == uniform(*right)) == (left == right)


@settings(max_examples=100)
@given(TEXT, st.dictionaries(TEXT, st.floats(0, 10), min_size=1, max_size=4).filter(lambda s: sum(s.values()) > 1e-6))
def test_neither_order_nor_scale_of_the_shares_matters(unit: str, shares: dict[str, float]) -> None:
    found = {assign(KEY, unit, {arm: shares[arm] for arm in order}) for order in permutations(shares)}
    found.add(assign(KEY, unit, {arm: share * 4 for arm, share in shares.items()}))
    assert len(found) == 1 and shares[found.pop()] > 0


def three(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=3, max_size=3)


@settings(max_examples=100)
@given(TEXT, three(0.001, 10), three(0.5, 2))
def test_a_unit_moves_only_to_an_arm_that_grew_by_more(unit: str, shares: list[float], factors: list[float]) -> None:
    before = assign(KEY, unit, dict(zip(ARMS, shares, strict=True)))
    grown = [share * factor for share, factor in zip(shares, factors, strict=True)]
    after = assign(KEY, unit, dict(zip(ARMS, grown, strict=True)))
    factor = dict(zip(ARMS, factors, strict=True))
    assert before == after or factor[after] > factor[before]


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": 1.0, "b": -0.5}, {"a": math.nan}, {"a": math.inf}])
def test_invalid_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        assign(KEY, "u", shares)


@pytest.fixture(scope="module")
def clocks() -> NDArray[np.float64]:
    """Return random times; a user gets the arm with the earliest time."""
    points = [[uniform(*KEY, arm, f"u{i}") for i in range(UNITS)] for arm in ARMS]
    return -np.log1p(-np.array(points)).T


def winners(clocks: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        return (clocks / np.array(shares)).argmin(axis=1)


def expected_to_stay(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the share of users that keep their arm: the probability Jaccard index (Moulton and Jiang, 2018)."""
    both = [i for i in range(len(a)) if a[i] > 0 and b[i] > 0]
    return sum(1 / sum(max(a[j] / a[i], b[j] / b[i]) for j in range(len(a))) for i in both)


def test_vectorised_assignment_equals_single_assignment(clocks: NDArray[np.float64]) -> None:
    shares = (0.5, 0.3, 0.2)
    one_by_one = [assign(KEY, f"u{i}", dict(zip(ARMS, shares, strict=True))) for i in range(3_000)]
    assert [ARMS[i] for i in winners(clocks[:3_000], shares)] == one_by_one


@pytest.mark.parametrize("shares", [(0.99, 0.01, 0.0), (0.5, 0.5, 0.0), (0.95, 0.025, 0.025), (0.2, 0.3, 0.5)])
def test_shares_are_exact(clocks: NDArray[np.float64], shares: tuple[float, ...]) -> None:
    got = np.bincount(winners(clocks, shares), minlength=3)
    for count, share in zip(got, shares, strict=True):
        assert abs(count - UNITS * share) <= 4 * math.sqrt(UNITS * share * (1 - share))


@pytest.mark.parametrize(
    ("before", "after", "minimal"),
    [
        # At least 10 % of the users must move.
        ((0.5, 0.25, 0.25), (0.4, 0.3, 0.3), True),
        ((0.95, 0.025, 0.025), (0.5, 0.25, 0.25), True),  # a larger stage
        ((0.95, 0.03, 0.02), (0.95, 0.03, 0.02), True),
        # The shares change by different factors, so some users also move to arm b.
        ((0.5, 0.25, 0.25), (0.4, 0.25, 0.35), False),
        ((0.5, 0.5, 0.0), (0.5, 0.25, 0.25), False),
    ],
)
def test_an_edit_moves_as_few_units_as_a_stateless_rule_can(
    clocks: NDArray[np.float64], before: tuple[float, ...], after: tuple[float, ...], minimal: bool
) -> None:
    first, second = winners(clocks, before), winners(clocks, after)
    moved = float((first != second).mean())
    expected = 1 - expected_to_stay(before, after)
    assert abs(moved - expected) <= 4 * math.sqrt(expected * (1 - expected) / UNITS)
    distance = sum(max(b - a, 0) for a, b in zip(before, after, strict=True))
    assert math.isclose(expected, distance, abs_tol=1e-12) == minimal
    assert expected <= 2 * distance / (1 + distance) + 1e-12
    factor = np.array([b / a if a else math.inf for a, b in zip(before, after, strict=True)])
    assert (factor[second] >= factor[first]).all()


def test_two_keys_are_independent() -> None:
    n, shares = 20_000, {"a": 0.5, "b": 0.5}
    same = sum(assign(("one",), f"u{i}", shares) == assign(("two",), f"u{i}", shares) for i in range(n))
    assert abs(same - n / 2) < 4 * math.sqrt(n / 4)

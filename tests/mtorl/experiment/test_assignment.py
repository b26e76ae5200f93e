"""Assignment: the numbers are frozen, the shares are exact, growing a share moves nobody who need not move."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment.assignment import assign, bucket, uniform

TEXT = st.text(max_size=12)


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
    assert bucket(salt, unit) == point


def test_golden_arms() -> None:
    found = "".join(assign("golden", f"user-{i}", {"i": 0.9, "c": 0.1}) for i in range(60))
    assert found == "iiiiiiiiiiiiciiiiiiiiiiciiiiiiiiiiiiciiiiiiiiiiiiiiiiiiiicii"


def test_golden_draw() -> None:
    assert uniform("s", "decision", "r1") == 0.13671492217313042


@given(TEXT, TEXT)
def test_points_lie_in_the_half_open_interval(salt: str, unit: str) -> None:
    assert 0 <= bucket(salt, unit) < 1


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4))
def test_the_parts_are_kept_apart(left: list[str], right: list[str]) -> None:
    assert (uniform(*left) == uniform(*right)) == (left == right)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_shares_hold_within_binomial_bounds(share: float) -> None:
    n = 60_000
    got = sum(assign("split", f"u{i}", {"incumbent": 1 - share, "challenger": share}) == "challenger" for i in range(n))
    assert abs(got - n * share) < 4 * math.sqrt(n * share * (1 - share))


def test_two_salts_are_independent() -> None:
    n, weights = 20_000, {"a": 0.5, "b": 0.5}
    same = sum(assign("one", f"u{i}", weights) == assign("two", f"u{i}", weights) for i in range(n))
    assert abs(same - n / 2) < 4 * math.sqrt(n / 4)


@given(TEXT, st.floats(0.0, 0.9), st.floats(0.01, 0.1))
def test_growing_a_share_moves_only_into_it(unit: str, share: float, more: float) -> None:
    before = assign("grow", unit, {"incumbent": 1 - share, "challenger": share})
    after = assign("grow", unit, {"incumbent": 1 - share - more, "challenger": share + more})
    assert (before, after) != ("challenger", "incumbent")


@given(TEXT, st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(lambda w: sum(w) > 1e-6))
def test_an_arm_without_weight_gets_nobody(unit: str, weights: list[float]) -> None:
    arms = {str(i): weight for i, weight in enumerate(weights)}
    assert arms[assign("zero", unit, arms)] > 0


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 1.0, "b": -0.5}, {"a": math.nan}, {"a": math.inf}])
def test_unusable_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        assign("s", "u", weights)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment.inference.sample_ratio import SRM_ALARM, srm_p_value

EVEN = {"incumbent": 0.5, "challenger": 0.5}


def users(incumbent: int, challenger: int) -> dict[str, int]:
    return {"incumbent": incumbent, "challenger": challenger}


def test_known_values() -> None:
    assert srm_p_value([(users(5_000, 5_010), EVEN)]) == 1.0
    assert srm_p_value([(users(5_000, 4_500), EVEN)]) < SRM_ALARM
    assert srm_p_value([(users(200, 100), EVEN)]) < SRM_ALARM
    assert srm_p_value([(users(990, 10), {"incumbent": 99, "challenger": 1})]) == 1.0
    assert srm_p_value([({"incumbent": 10, "ghost": 1}, EVEN)]) == 0.0
    assert srm_p_value([]) == 1.0
    assert srm_p_value([({}, EVEN)]) == 1.0
    assert srm_p_value([({"incumbent": 9}, {"incumbent": 1.0, "challenger": 0.0})]) == 1.0
    shares = {"incumbent": 0.5, "b": 0.25, "c": 0.25}
    assert srm_p_value([({"incumbent": 5_000, "b": 2_510, "c": 2_490}, shares)]) == 1.0
    assert srm_p_value([({"incumbent": 5_000, "b": 2_800, "c": 2_200}, shares)]) < SRM_ALARM
    assert srm_p_value([({"challenger": 1}, {"incumbent": 0.9, "challenger": 0.1})]) == pytest.approx(1.0)


def test_one_bad_stage_is_enough_and_errors_are_shared_by_stages() -> None:
    bad, good = (users(5_000, 4_600), EVEN), (users(990, 10), {"incumbent": 0.99, "challenger": 0.01})
    alone = srm_p_value([bad])
    assert srm_p_value([good, bad], planned=4) == pytest.approx(4 * alone)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_daily_looks_keep_the_rate_of_false_alarms(share: float) -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        challengers = rng.binomial(500, share, 100).cumsum()
        shares = {"incumbent": 1 - share, "challenger": share}
        alarms += any(
            srm_p_value([(users(500 * (day + 1) - n, n), shares)]) < SRM_ALARM for day, n in enumerate(challengers)
        )
    assert alarms / 400 <= 1.5 * SRM_ALARM


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10_000), min_size=2),
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
)
def test_the_p_value_ignores_the_scale_of_the_shares(counts: dict[str, int], shares: list[float]) -> None:
    configured = dict(zip("abcd", shares, strict=True))
    found = srm_p_value([(counts, configured)])
    assert 0.0 <= found <= 1.0
    scaled = srm_p_value([(counts, {arm: 7.0 * share for arm, share in configured.items()})])
    assert scaled == pytest.approx(found, rel=1e-6)

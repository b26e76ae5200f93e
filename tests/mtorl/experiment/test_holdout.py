"""Users who are held out: in no arm at any stage, the same in all experiments of a layer, and what they keep."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment.arm import ALL_ARMS, HOLDOUT, INCUMBENT
from mtorl.experiment.assignment import uniform
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import State, in_force
from tests.experiments import experiment
from tests.mtorl.experiment.experiments import after, made

USERS = [f"u{n}" for n in range(300)]
STAGES = ["shadow", "1%", "5%", "25%", "50%"]
SHARES = st.floats(min_value=0.0, max_value=0.5, exclude_max=True)
PARTS = st.sampled_from([[0, 1], [0.25, 0.75]])
PROMOTION = {"at": "2026-01-01T00:00:00Z", "before": {"name": "holdout", "weight": 0.0, "policy": "baseline"}}


def of(**changes: Any) -> Experiment:
    return Experiment.from_dict(experiment("http://x", **changes))


def held_out(found: Experiment) -> set[str]:
    return {user for user in USERS if found.arm_of(user)[0] == HOLDOUT}


@settings(max_examples=100)
@given(share=SHARES, stage=st.sampled_from(STAGES), enabled=st.booleans(), part=PARTS)
def test_they_are_in_no_arm_and_nobody_elses_arm_is_touched(
    share: float, stage: str, enabled: bool, part: list[float]
) -> None:
    without = of(stage=stage, enabled=enabled, layer_part=part)
    found = without.replace(holdout=share)
    for user in USERS:
        inside = part[0] <= uniform("layer", "l", user) < part[1]
        out = inside and uniform("holdout", "l", user) < share
        assert found.arm_of(user) == ((HOLDOUT, 1.0) if out else without.arm_of(user))
    assert found.shares() == without.shares()
    parts = {account.arm: account.part for account in found.accounts()}
    assert sum(part for arm, part in parts.items() if arm != ALL_ARMS) == pytest.approx(1.0)
    assert parts.get(HOLDOUT, 0.0) == pytest.approx((part[1] - part[0]) * share)


@settings(max_examples=100)
@given(small=SHARES, large=SHARES)
def test_a_larger_share_holds_a_smaller_one_in_every_experiment_of_the_layer(small: float, large: float) -> None:
    small, large = sorted((small, large))
    one, other = of(holdout=small), of(holdout=large, name="other", salt="another", stage="5%")
    assert held_out(one) <= held_out(other)
    assert held_out(one) == held_out(of(holdout=small, name="third"))


def test_it_is_independent_of_the_layers_places_and_the_arms() -> None:
    found = of(holdout=0.3)
    users = [f"v{n}" for n in range(6000)]
    inside = [user for user in users if found.arm_of(user)[0] != HOLDOUT]
    assert len(inside) / len(users) == pytest.approx(0.7, abs=0.02)
    assert sum(found.arm_of(user)[0] == INCUMBENT for user in inside) / len(inside) == pytest.approx(0.5, abs=0.02)
    places = [uniform("layer", "l", user) for user in inside]
    assert sum(places) / len(places) == pytest.approx(0.5, abs=0.02)
    assert held_out(of(holdout=0.3, layer="another")) != held_out(found)


def test_nobody_writes_a_promotion() -> None:
    for more in ({}, {"holdout": 0.1}):  # and it is not over
        with pytest.raises(ExperimentError, match="only a promotion writes it"):
            of(promotion=PROMOTION, **more)
    written = of(holdout=0.1, enabled=False, promotion=PROMOTION)
    with pytest.raises(ExperimentError, match="only a promotion writes it"):
        written.check_written()
    of(holdout=0.1).check_written()


def _after(file: Experiment, *moves: str) -> State:
    return state_of(after(*moves, file=file), file)


def test_after_a_promotion_they_are_answered_as_before_it() -> None:
    file = made(holdout=0.2)
    serving = in_force(file, _after(file, "50%"))
    assert serving.promotion is None and serving.arm(HOLDOUT) == serving.arm(INCUMBENT) == file.arm(INCUMBENT)
    promoted = in_force(file, _after(file, "50%", "promoted"))
    assert promoted.arm(INCUMBENT).url == promoted.arm("outside").url == file.arm("challenger").url
    before = promoted.arm(HOLDOUT)
    assert (before.name, before.policy, before.url) == ("holdout", "baseline", None)
    assert promoted.promotion is not None and promoted.promotion.at.timestamp() == 10.0
    assert [arm.name for arm in promoted.policies] == ["incumbent", "challenger", "holdout"]
    assert held_out(promoted) == held_out(file) and {promoted.arm_of(user)[0] for user in USERS} == {
        INCUMBENT, HOLDOUT,
    }  # fmt: skip
    assert Experiment.from_dict(promoted.model_dump(mode="json")) == promoted
    assert promoted.version != serving.version
    back = in_force(file, _after(file, "50%", "promoted", "rolled back"))
    assert back.promotion is None
    assert back.arm(HOLDOUT) == back.arm(INCUMBENT) and back.arm(INCUMBENT).policy == "baseline"


def test_what_they_keep_answers_where_it_did_whatever_becomes_of_the_file() -> None:
    arms = [
        {"name": "incumbent", "weight": 0.5, "endpoint": "http://old"},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://new"},
    ]
    file = made(holdout=0.2, arms=arms)
    state = _after(file, "50%", "promoted")
    edited = made(holdout=0.2, arms=[{**arm, "endpoint": "http://another"} for arm in arms])
    serving = in_force(edited, state)
    assert serving.arm(HOLDOUT).url == "http://old/v1/models/incumbent:predict"
    assert serving.arm(INCUMBENT).url == "http://new/v1/models/challenger:predict"

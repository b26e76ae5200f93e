from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment.arm import ALL_ARMS, OUTSIDE, OVERRIDE
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import State, in_force
from tests.experiments import experiment
from tests.mtorl.experiment.experiments import after, made

ARMS = ["incumbent", "challenger"]
STAGES = ["shadow", "1%", "5%", "25%", "50%"]
USERS = [f"u{n}" for n in range(40)]
QA = {"qa-anna": "challenger", "qa-ben": "incumbent"}
BUDGETS = [
    {"campaign": "*", "channel": "*", "amount": 1000.0},
    {"campaign": "spring", "channel": "*", "amount": 80.0, "period": "day"},
]


def of(**changes: Any) -> Experiment:
    return Experiment.from_dict(experiment("http://x", budgets=BUDGETS, **changes))


@settings(max_examples=100)
@given(
    overrides=st.dictionaries(st.sampled_from(USERS), st.sampled_from(ARMS)),
    stage=st.sampled_from(STAGES),
    enabled=st.booleans(),
    part=st.sampled_from([[0, 1], [0.25, 0.75]]),
)
def test_overrides_keep_arms_shares_and_budgets_of_others(
    overrides: dict[str, str], stage: str, enabled: bool, part: list[float]
) -> None:
    without = of(stage=stage, enabled=enabled, layer_part=part)
    found = without.replace(overrides=overrides)
    for user in USERS:
        named = enabled and user in overrides
        assert found.overrides_arm_of(user) == named
        assert found.arm_of(user) == ((overrides[user], 1.0) if named else without.arm_of(user))
    assert found.shares() == without.shares()
    limits = {(x.arm, x.campaign): x for x in found.accounts()}
    before = {(x.arm, x.campaign): x for x in without.accounts()}
    any_there = enabled and bool(overrides)
    assert limits.keys() - before.keys() == ({(OVERRIDE, "*"), (OVERRIDE, "spring")} if any_there else set())
    assert sum(x.part for x in found.accounts() if x.campaign == "*" and x.arm != ALL_ARMS) == pytest.approx(1.0)
    for scope, account in before.items():
        kept = 0.99 if any_there and scope[0] not in (ALL_ARMS, OUTSIDE) else 1.0
        assert limits[scope] == account._replace(
            part=pytest.approx(account.part * kept), limit=pytest.approx(account.limit * kept)
        )


def test_the_override_account_gets_a_hundredth_and_is_not_paced() -> None:
    accounts = {x.campaign: x for x in of(overrides=QA).accounts() if x.arm == OVERRIDE}
    assert {name: (x.limit, x.pacing) for name, x in accounts.items()} == {"*": (10.0, None), "spring": (0.8, None)}


def test_overrides_change_the_version_but_their_order_does_not() -> None:
    plain, one, other = of(), of(overrides=QA), of(overrides=dict(reversed(QA.items())))
    assert plain.version != one.version == other.version != of(overrides={"qa-anna": "challenger"}).version
    assert plain.version == of(overrides={}).version
    assert list(other.overrides) == sorted(QA)
    assert Experiment.from_dict(one.model_dump(mode="json")) == one


def test_overrides_apply_at_every_stage_and_end_with_the_experiment() -> None:
    file = made(overrides=QA)
    for phase in ("shadow", "5%", "50%"):
        assert in_force(file, State(phase)).arm_of("qa-anna") == ("challenger", 1.0)
        killed = in_force(file, State(phase, killed=True))
        assert killed.arm_of("qa-anna")[0] == "incumbent"
        assert not [x for x in killed.accounts() if x.arm == OVERRIDE]
    for phase in ("draft", "promoted", "stopped", "rolled back"):
        assert in_force(file, State(phase)).arm_of("qa-anna")[0] == "incumbent"
    assert in_force(file, state_of(after("50%", "promoted", file=file), file)).overrides == {}

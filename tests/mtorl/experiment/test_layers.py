"""Tests that experiments of a layer share no user, and that layers are independent."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment import messages
from mtorl.experiment.arm import ALL_ARMS, INCUMBENT, OUTSIDE
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.layers import Experiments, conflict
from tests.experiments import experiment
from tests.messages import assert_says, raises

USERS = [f"u{number}" for number in range(4000)]


def make(name: str, **changes: Any) -> Experiment:
    return Experiment.from_dict(experiment("http://x", name=name, salt=f"{name} 1", **changes))


def budget(campaign: str, amount: float = 100.0, **changes: Any) -> dict[str, Any]:
    return {"campaign": campaign, "channel": "*", "amount": amount, "period": "day", **changes}


def test_a_user_is_in_the_experiment_of_their_part_of_the_layer() -> None:
    spring, autumn = make("spring", layer_part=[0.0, 0.5]), make("autumn", layer_part=[0.5, 0.8])
    together = Experiments([autumn, spring])
    assert [one.name for one in together] == ["spring", "autumn"], "the order of the files does not matter"
    found = defaultdict(int)
    for user in USERS:
        deciding = together.deciding(user, "shoes")
        arm, _ = deciding.arm_of(user)
        assert not (spring.holds(user) and autumn.holds(user))
        assert deciding is (autumn if autumn.holds(user) else spring)
        found["outside" if arm == OUTSIDE else deciding.name] += 1
    assert {name: round(number / len(USERS), 1) for name, number in found.items()} == {
        "spring": 0.5, "autumn": 0.3, "outside": 0.2,
    }  # fmt: skip


def test_an_override_applies_in_any_part_of_the_layer() -> None:
    spring = make("spring", layer_part=[0.0, 0.5])
    autumn = make("autumn", layer_part=[0.5, 0.8], overrides=dict.fromkeys(USERS[:50], "challenger"))
    together = Experiments([spring, autumn])
    assert all(together.deciding(user, "shoes") is autumn for user in USERS[:50])
    off = Experiments([spring, autumn.replace(enabled=False)])
    assert {off.deciding(user, "shoes").name for user in USERS[:50]} == {"spring", "autumn"}
    parts = {account.arm: account.part for account in together.accounts()}
    assert parts["autumn/override"] == pytest.approx(0.003)
    assert sum(parts.values()) == pytest.approx(2.0), "the whole budget, and the sum of its parts"


def test_experiments_for_different_campaigns_are_independent() -> None:
    shoes = make("shoes", campaigns=["shoes"], budgets=[budget("shoes")], stage="50%")
    hats = make(
        "hats", campaigns=["hats", "caps"], budgets=[budget("hats"), budget("caps")], layer="other", stage="50%"
    )
    together = Experiments([shoes, hats])
    assert together.deciding("u1", "shoes") is shoes and together.deciding("u1", "caps") is hats
    in_both = sum(shoes.arm_of(user)[0] != INCUMBENT != hats.arm_of(user)[0] for user in USERS)
    assert in_both / len(USERS) == pytest.approx(0.25, abs=0.03)
    stranger = together.deciding("u1", "coats")
    assert "coats" not in {account.campaign for account in together.accounts()}, "this campaign has no budget"
    assert stranger is shoes, "every router chooses the same experiment"


@pytest.mark.parametrize(
    ("one", "other", "campaigns"),
    [
        ({}, {}, "all campaigns"),
        ({}, {"layer": "other"}, "all campaigns"),
        ({"layer_part": [0, 0.5]}, {"layer_part": [0.5, 1]}, None),
        ({"layer_part": [0, 0.6]}, {"layer_part": [0.5, 1]}, "all campaigns"),
        ({"campaigns": ["x"], "budgets": [budget("x")]}, {"campaigns": ["y"], "budgets": [budget("y")]}, None),
        ({"campaigns": ["x"], "budgets": [budget("x")]}, {}, "campaign x"),
        ({"campaigns": ["x"], "budgets": [budget("x")]}, {"layer_part": [0.2, 0.3]}, "campaign x"),
    ],
)
def test_overlapping_experiments_are_refused(one: dict[str, Any], other: dict[str, Any], campaigns: str | None) -> None:
    a, b = make("a", **one), make("b", **other)
    found = conflict(a, b)
    assert (found is None) == (campaigns is None) == (conflict(b, a) is None)
    if campaigns is not None:
        with raises(ExperimentError, messages.OVERLAP, one="a", other="b", campaigns=campaigns):
            Experiments([a, b])


def test_equal_names_or_no_experiment_are_refused() -> None:
    with raises(ExperimentError, messages.SAME_NAME, name="a"):
        Experiments([make("a", layer_part=[0, 0.5]), make("a", layer_part=[0.5, 1])])
    with raises(ExperimentError, messages.NO_EXPERIMENT):
        Experiments([])
    with raises(ExperimentError, messages.BUDGET_CAMPAIGN, campaign="*", campaigns="x"):
        make("a", campaigns=["x"])


def test_if_files_differ_about_a_budget_the_smallest_amount_counts() -> None:
    together = Experiments(
        [
            make("spring", layer_part=[0.0, 0.5], budgets=[budget("*", 100.0)]),
            make("autumn", layer_part=[0.5, 1.0], budgets=[budget("*", 40.0)]),
        ]
    )
    limits = [account.limit for account in together.accounts() if account.arm == ALL_ARMS]
    assert limits == [40.0] and len(together.differences) == 1
    assert_says(together.differences[0], messages.BUDGETS_DIFFER, one="spring", other="autumn")


@st.composite
def together(draw: st.DrawFn) -> Experiments:
    cuts = sorted(draw(st.sets(st.integers(0, 20), min_size=2, max_size=5)))
    campaigns = draw(st.sampled_from([None, ["x"], ["x", "y"]]))
    budgets = [budget(of, 1000.0) for of in campaigns or ["*"]]
    of = {} if campaigns is None else {"campaigns": campaigns}
    made = [
        make(
            f"e{start}",
            layer_part=[start / 20, end / 20],
            stage=draw(st.sampled_from(["shadow", "1%", "5%", "25%", "50%"])),
            enabled=draw(st.booleans()),
            budgets=budgets,
            overrides={"qa": "challenger"} if draw(st.booleans()) else {},
            **of,
        )
        for start, end in pairwise(cuts)
        if draw(st.booleans()) or start == cuts[0]
    ]
    return Experiments(draw(st.permutations(made)))


@settings(max_examples=100)
@given(together())
def test_parts_of_a_budget_add_up_and_are_proportional_to_users(experiments: Experiments) -> None:
    parts = defaultdict[tuple[str, str], dict[str, float]](dict)
    for account in experiments.accounts():
        parts[account.campaign, account.channel][account.arm] = account.part
        assert account.limit == pytest.approx(1000.0 * account.part)
    for found in parts.values():
        assert found.pop(ALL_ARMS) == 1.0
        assert sum(found.values()) == pytest.approx(1.0)
        for one in experiments:
            inside = one.layer_part[1] - one.layer_part[0]
            tried = 0.01 if one.overrides and one.enabled else 0.0
            for arm, share in one.shares().items():
                assert found[one.key(arm)] == pytest.approx(inside * (1 - tried) * share)

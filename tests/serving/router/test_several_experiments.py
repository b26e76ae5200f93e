"""Tests of several experiments that share a router and a budget."""

import asyncio
from typing import Any

import pytest
import yaml
from pytest import approx

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from serving.router.flow.idempotency_cache import IdempotencyCache
from tests.experiments import experiment
from tests.serving.router_fixtures import COST_CAP, Harness, instance, sample, with_router
from tests.waiting import until

DAY = [{"campaign": "*", "channel": "*", "amount": 1.0, "period": "day", "pacing": None}]
SEVERAL: dict[str, Any] = {"changes": {"name": "first", "budgets": DAY}, "experiment": "experiments"}
USERS = [instance(f"u{number}") for number in range(60)]


def put(h: Harness, name: str, **changes: Any) -> dict[str, Any]:
    content = experiment(h.arm.url, name=name, salt=f"{name} 1", **{"budgets": DAY, **changes})
    (h.folder / "draft").write_text(yaml.safe_dump(content))
    (h.folder / "draft").replace(h.folder / "experiments" / f"{name}.yaml")
    (h.folder / "experiments" / "first.yaml").unlink(missing_ok=True)
    return content


def write(h: Harness, name: str, **changes: Any) -> Experiment:
    return Experiment.from_dict(put(h, name, **changes))


async def started(h: Harness, *experiments: Experiment) -> Experiments:
    await until(lambda: list(h.router.live.experiments) == list(experiments))
    await until(lambda: h.router.budgets.set_up_for(h.router.live.experiments))
    return h.router.live.experiments


@with_router(**SEVERAL)
async def test_each_user_is_in_one_experiment_and_all_share_one_budget(h: Harness) -> None:
    spring = write(h, "spring", layer_part=[0.0, 0.5])
    together = await started(h, spring, write(h, "autumn", layer_part=[0.5, 0.9]))
    await until(lambda: {b.arm for b in h.ledger.balances()} >= {"spring/challenger", "outside"})
    answers = await h.predict(*USERS)
    shown = 0
    for answer, asked in zip(answers, USERS, strict=True):
        deciding = together.deciding(asked["user_id"], asked["campaign_id"])
        assert (answer["experiment"], answer["arm"]) == (deciding.name, deciding.arm_of(asked["user_id"])[0])
        shown += answer["expose"]
    assert {answer["experiment"] for answer in answers} == {"spring", "autumn"}
    assert "outside" in {answer["arm"] for answer in answers}
    balances = {b.arm: b for b in h.ledger.balances()}
    assert balances["*"].reserved == approx(sum(b.reserved for arm, b in balances.items() if arm != "*"), abs=1e-9)
    assert balances["*"].reserved <= 1.0
    assert shown == round(balances["*"].reserved / COST_CAP["video"]) < len(USERS), "all experiments share one cap"
    for arm in ("incumbent", "challenger"):
        for name in ("spring", "autumn"):
            assert sample("mtorl_decisions_total", experiment=name, arm=arm, expose="true") > 0
            assert f"{name}/{arm}" in h.router.health.parts


@with_router(**SEVERAL)
async def test_the_kill_switch_of_one_experiment_leaves_the_other_running(h: Harness) -> None:
    spring, autumn = write(h, "spring", layer_part=[0.0, 0.5]), write(h, "autumn", layer_part=[0.5, 1.0])
    await started(h, spring, autumn)
    (before,) = (one for one in h.router.live.experiments if one.name == "spring")
    off = write(h, "autumn", layer_part=[0.5, 1.0], enabled=False)
    together = await started(h, spring, off)
    assert together.holds(before), "the other experiment is the same object and continues"
    arms = {(answer["experiment"], answer["arm"]) for answer in await h.predict(*USERS)}
    assert arms == {("spring", "incumbent"), ("spring", "challenger"), ("autumn", "incumbent")}
    (h.folder / "experiments" / "autumn.yaml").write_text("half of it: [")
    await until(lambda: "autumn.yaml" in h.router.health.parts["experiment"])
    assert list(h.router.live.experiments) == [spring, off], "an invalid file changes nothing"
    write(h, "winter", layer_part=[0.4, 0.6])
    await until(lambda: "winter.yaml" in h.router.health.parts["experiment"])
    assert list(h.router.live.experiments) == [spring, off] and "overlap" in h.router.health.parts["experiment"]
    (h.folder / "experiments" / "winter.yaml").unlink()
    (h.folder / "experiments" / "autumn.yaml").unlink()
    await started(h, spring)
    assert h.router.health.parts["experiment"] == "ok"
    await until(lambda: "autumn/challenger" not in h.router.health.parts)
    kept = h.folder / "last-good-experiments"
    assert [file.name for file in kept.iterdir()] == ["spring.yaml"]
    (h.folder / "experiments" / "renamed.yaml").write_text("half of it: [")
    (h.folder / "experiments" / "spring.yaml").unlink()
    await until(lambda: "renamed.yaml" in h.router.health.parts["experiment"])
    assert list(h.router.live.experiments) == [spring], "the broken file may be its replacement"


@with_router(**SEVERAL)
async def test_a_campaign_without_an_experiment_is_in_no_arm(h: Harness) -> None:
    of_shoes = [{**DAY[0], "campaign": "shoes"}]
    await started(h, write(h, "shoes", campaigns=["shoes"], budgets=of_shoes, overrides={"u1": "challenger"}))
    answers = await h.predict(*(instance(f"u{number}", campaign_id="hats") for number in range(30)))
    assert {(a["arm"], a["expose"], a["fallback_reason"]) for a in answers} == {("outside", False, "no_account")}
    assert {(r["assignment_probability"], r["override"]) for r in h.records()} == {(1.0, False)}
    assert {arm for arm, _ in h.arm.asked} == {"incumbent"}


@pytest.mark.parametrize("wrong", [{"layer_part": [0.0, 0.6]}, {"default_channel": "tv"}, {"alpha": 7}])
@with_router(**SEVERAL)
async def test_an_invalid_file_can_still_turn_its_experiment_off(h: Harness, wrong: dict[str, Any]) -> None:
    spring, autumn = write(h, "spring", layer_part=[0.0, 0.5]), write(h, "autumn", layer_part=[0.5, 1.0])
    await started(h, spring, autumn)
    put(h, "spring", **{"layer_part": [0.0, 0.5], "enabled": False, **wrong})
    off = spring.replace(enabled=False)
    await until(lambda: list(h.router.live.experiments) == [off, autumn])
    await until(lambda: "spring.yaml" in h.router.health.parts["experiment"])
    put(h, "spring", **{"layer_part": [0.0, 0.5], **wrong})
    changed = write(h, "autumn", layer_part=[0.5, 1.0], owner="seen with it, or after it")
    await until(lambda: changed in h.router.live.experiments)
    assert list(h.router.live.experiments) == [off, changed], "an invalid file switches nothing on"


@with_router(**SEVERAL)
async def test_a_retry_is_paid_once_even_if_another_experiment_decides(h: Harness) -> None:
    spring, autumn = write(h, "spring", layer_part=[0.0, 0.5]), write(h, "autumn", layer_part=[0.5, 1.0])
    await started(h, spring, autumn)
    asked = [instance(f"u{number}", request_id=f"r{number}") for number in range(12)]
    first = await h.predict(*asked)
    reserved = h.balance("*").reserved
    (h.folder / "experiments" / "spring.yaml").unlink()
    await started(h, autumn)
    assert await h.predict(*asked) == first and h.balance("*").reserved == reserved > 0
    # Another router has no cached answers.
    h.router.decider.cache = IdempotencyCache()
    again = await h.predict(*asked)
    assert {answer["fallback_reason"] for answer in again} == {"repeated"} and h.balance("*").reserved == reserved


@with_router(**SEVERAL)
async def test_experiments_that_define_one_budget_differently_are_reported(h: Harness) -> None:
    spring = write(h, "spring", layer_part=[0.0, 0.5])
    await started(h, spring, write(h, "autumn", layer_part=[0.5, 1.0], budgets=[{**DAY[0], "amount": 0.5}]))
    await until(lambda: "spring and autumn give different budgets" in h.router.health.parts["budgets"])
    assert h.balance("*").limit == 0.5


@with_router(**SEVERAL)
async def test_adding_and_ending_experiments_never_overspends(h: Harness) -> None:
    parts = [[0.0, 0.5], [0.5, 0.75], [0.75, 1.0]]
    for turn in range(6):
        names = [f"e{n}" for n in range(1 + turn % 3)]
        for file in (h.folder / "experiments").iterdir():
            if file.stem not in names:
                file.unlink()
        made = [write(h, name, layer_part=part) for name, part in zip(names, parts, strict=False)]
        await started(h, *made)
        await asyncio.gather(*(h.predict(instance(f"t{turn}-{number}")) for number in range(12)))
        whole = h.balance("*")
        assert whole.spent + whole.reserved <= whole.limit == 1.0
    assert h.balance("*").reserved == 1.0, "the whole budget is used"

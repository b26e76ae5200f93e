"""Who is held out is in no arm and, after a promotion, keeps the previous incumbent."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.assignment import uniform
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import in_force
from tests.experiments import experiment
from tests.mtorl.experiment.experiments import after, made
from tests.serving.router_fixtures import COST_CAP, Harness, instance, only, with_router

USERS = [f"u{n}" for n in range(60)]
HELD_OUT = [user for user in USERS if uniform("holdout", "l", user) < 0.25]
VIDEO = COST_CAP["video"]


@pytest.mark.parametrize("changes", [{"stage": stage, "holdout": 0.25} for stage in ("shadow", "50%")])
@with_router()
async def test_they_are_in_no_arm_and_spend_no_arms_money(h: Harness, changes: dict[str, Any]) -> None:
    answers = await h.predict(*map(instance, USERS))
    arms = dict(zip(USERS, (answer["arm"] for answer in answers), strict=True))
    assert [user for user in USERS if arms[user] == "holdout"] == HELD_OUT and len(HELD_OUT) > 5
    for record in h.records():
        out = uniform("holdout", record["layer"], record["user_id"]) < 0.25
        assert (record["arm"] == "holdout") == out
        assert record["assignment_probability"] == (1.0 if out else record["shares"][record["arm"]])
        assert sum(record["shares"].values()) == 1
    asked = {item["user_id"]: arm for arm, item in h.arm.asked if changes["stage"] != "shadow" or arm == "incumbent"}
    assert {asked[user] for user in HELD_OUT} == {"incumbent"}
    balance = h.balance("holdout")
    assert (balance.limit, balance.reserved) == (25.0, pytest.approx(len(HELD_OUT) * VIDEO))
    if changes["stage"] == "shadow":
        await h.until(lambda: len(list(h.spool.read("shadow"))) == len(USERS) - len(HELD_OUT))


def _promoted(endpoint: str, **changes: Any) -> dict[str, Any]:
    file = made(**experiment(endpoint, holdout=0.25, **changes))
    return in_force(file, state_of(after("50%", "promoted", file=file), file)).model_dump(mode="json")


@with_router(changes={"stage": "50%", "holdout": 0.25})
async def test_after_a_promotion_they_get_the_incumbent_of_before(h: Harness, tmp_path: Path) -> None:
    await h.change(**_promoted(h.arm.url))
    h.arm.asked.clear()
    answers = await h.predict(*map(instance, USERS))
    assert {answer["arm"] for answer in answers} == {"incumbent", "holdout"}
    assert all(answer["expose"] for answer in answers)
    asked = {item["user_id"]: arm for arm, item in h.arm.asked}
    assert {user for user in USERS if asked[user] == "incumbent"} == set(HELD_OUT), "the model of before"
    assert {asked[user] for user in USERS if user not in HELD_OUT} == {"challenger"}
    assert {record["stage"] for record in h.records()} == {"off"}
    await h.until(lambda: "test/holdout" in h.router.health.parts)  # it is watched like an arm
    kept = made(**yaml.safe_load((tmp_path / "last-good-experiments" / "experiment.yaml").read_text()))
    assert kept == only(h.router.live) and kept.promotion is not None

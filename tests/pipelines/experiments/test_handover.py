"""After a promotion the incumbent's InferenceService takes over the version that won, and gives it back."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from monitoring.experiments.page import page
from mtorl.experiment.history import Event, next_event, state_of
from pipelines.experiments.operator.operator import Operator
from tests.pipelines.experiments.fake_cluster import Killed
from tests.pipelines.experiments.test_operator import NAME, Scene, refuse_once

URL = "http://mtorl-{}-predictor/v1/models/{}:predict"
ARMS = [
    {"name": "incumbent", "weight": 0.5, "endpoint": URL.format("incumbent", "incumbent"), "model_digest": "0ld"},
    {"name": "challenger", "weight": 0.5, "endpoint": URL.format("challenger", "challenger"), "model_digest": "e3"},
]
UNPINNED = [{key: value for key, value in arm.items() if key != "model_digest"} for arm in ARMS]
FIRST, WON = "incumbent/first", "challenger/won"


@pytest.fixture
def scene() -> Scene:
    made = Scene(arms=ARMS)
    made.cluster.add_service("mtorl-incumbent", FIRST)
    made.cluster.add_service("mtorl-challenger", WON)
    made.operator.changed(NAME)
    move(made, "50%")
    return made


def move(scene: Scene, to: str, name: str = NAME) -> None:
    asked = {"to": to, "reason": f"because, {scene.cluster.requests}"}
    scene.cluster.patch(name, move={**asked, "force": True} if to == "promoted" else asked)
    scene.operator.changed(name)


def beside(scene: Scene, *arms: list[dict[str, Any]]) -> None:
    """Two experiments in parts of one layer, with the same servers unless they are given."""
    for (name, part), given in zip(((NAME, [0, 0.5]), ("other", [0.5, 1])), arms or (ARMS, ARMS), strict=True):
        spec = Scene(arms=given, layer_part=part, salt=name).cluster.objects[NAME]["spec"]
        scene.cluster.apply(name, {**spec, "move": {"to": "50%", "reason": "go"}})
        scene.operator.changed(name)


def promote(scene: Scene) -> None:
    move(scene, "promoted")
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()


def settled(scene: Scene) -> tuple[str, str]:
    return scene.condition("Settled")[:2]


def shown(scene: Scene) -> tuple[bool, str] | None:
    """What page and gauges have of it."""
    (view,) = scene.operator.views()
    return None if view["settled"] is None else (view["settled"]["done"], view["settled"]["reason"])


def answers_at(scene: Scene) -> str:
    return str(scene.serving().arm("incumbent").endpoint)


def test_the_incumbents_server_takes_over_the_version_that_won(scene: Scene) -> None:
    assert shown(scene) is None, "nothing was promoted"
    move(scene, "promoted")
    assert answers_at(scene) == ARMS[1]["endpoint"], "at once, where the model that won is"
    assert scene.cluster.version_of("mtorl-incumbent") == WON
    assert scene.condition("Settled") == (
        "False", "RollingOut", f"mtorl-incumbent is to serve {WON} in place of {FIRST}"
    )  # fmt: skip
    scene.operator.advance()
    assert settled(scene) == ("False", "RollingOut") and "the roll-out has not begun" in scene.condition("Settled")[2]
    assert shown(scene) == (False, "RollingOut")
    assert answers_at(scene) == ARMS[1]["endpoint"], "its pods still have the version of before"
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()
    assert settled(scene) == ("True", "HandedOver") and shown(scene) == (True, "HandedOver")
    incumbent = scene.serving().arm("incumbent")
    assert (incumbent.endpoint, incumbent.model_digest) == (ARMS[0]["endpoint"], "e3"), "there again, and the new model"
    assert scene.events()[-1].kind == "handed over" and ("HandedOver", "handed over by the ramp: ") in [
        (reason, words[:25]) for reason, words in scene.cluster.said
    ]

    scene.cluster.services["mtorl-challenger"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": "next"}
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == WON, "the challenger's server is free"
    assert len(scene.events()) == 3

    scene.evidence = lambda: None
    scene.restart()
    assert "handed over</b>" in page(scene.operator.views())


@pytest.mark.parametrize("when", ["before it was rolled out", "before that was noted", "afterwards"])
def test_a_rollback_gives_it_back(scene: Scene, when: str) -> None:
    move(scene, "promoted")
    if when != "before it was rolled out":
        scene.cluster.roll_out("mtorl-incumbent")
    if when == "afterwards":
        scene.operator.advance()
    move(scene, "rolled back")
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST
    assert (answers_at(scene), scene.serving().arm("incumbent").model_digest) == (ARMS[0]["endpoint"], "0ld")
    assert settled(scene) == ("False", "RollingBack")
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()
    assert settled(scene) == ("True", "RolledBack")

    scene.cluster.services["mtorl-incumbent"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": WON}
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST, "what was rolled back does not come back by an apply"


def test_a_rollback_of_a_broken_spec_gives_it_back_too(scene: Scene) -> None:
    promote(scene)
    scene.patch(budgets=[], move={"to": "rolled back", "reason": "harm"})
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST and scene.condition("Accepted")[1] == "Unusable"


def test_what_a_person_rolls_out_afterwards_stays(scene: Scene) -> None:
    promote(scene)
    scene.cluster.services["mtorl-incumbent"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": FIRST}
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST
    assert settled(scene) == ("False", "Changed") and f"not {WON}, which was promoted" in scene.condition("Settled")[2]
    scene.cluster.services["mtorl-incumbent"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": "third"}
    move(scene, "rolled back")
    assert scene.cluster.version_of("mtorl-incumbent") == "third", "neither of the two that it knows"
    assert settled(scene) == ("True", "Changed"), "nothing is left to do"


def test_an_apply_before_it_is_noted_is_made_good(scene: Scene) -> None:
    move(scene, "promoted")
    scene.cluster.services["mtorl-incumbent"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": FIRST}
    scene.cluster.services["mtorl-challenger"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": "next"}
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == WON, "the one that won, not the one that came after it"


def test_what_another_experiment_compares_with_stays_until_it_is_over(scene: Scene) -> None:
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    beside(scene)
    move(scene, "promoted")
    assert settled(scene) == ("False", "Waits") and scene.cluster.version_of("mtorl-incumbent") == FIRST
    scene.cluster.patch("other", enabled=False)
    scene.operator.changed("other")
    scene.operator.advance()
    assert settled(scene) == ("False", "Waits") and scene.cluster.version_of("mtorl-incumbent") == FIRST
    assert answers_at(scene) == ARMS[1]["endpoint"], "its own users have the winner all the same"
    scene.cluster.patch("other", enabled=True)
    move(scene, "stopped", "other")
    scene.operator.advance()
    assert "must be model 0ld" in scene.condition("Settled")[2], "or its users had the default action from then on"
    scene.cluster.patch("other", arms=UNPINNED)
    scene.operator.changed("other")
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == WON


@pytest.mark.parametrize("seed", range(20))
def test_two_promotions_in_one_layer_never_take_a_server_from_each_other(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    scene.cluster.add_service("mtorl-second", "second/won")
    beside(scene, UNPINNED, [UNPINNED[0], {**UNPINNED[1], "endpoint": URL.format("second", "challenger")}])
    scene.cluster.told.clear()
    for to in ("promoted", "rolled back"):
        for name in rng.sample([NAME, "other"], 2):
            move(scene, to, name)
            for _ in range(rng.randrange(3)):
                scene.operator.advance()
                scene.cluster.roll_out("mtorl-incumbent")
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST
    assert all(scene.serving(name).arm("incumbent").endpoint == UNPINNED[0]["endpoint"] for name in (NAME, "other"))
    alone = [version for version in scene.cluster.told if version != FIRST]
    assert len(alone) <= 1, "of one at most, while the other one's users have what was promoted at its challenger"


def test_an_apply_that_undoes_a_promotion_under_the_next_salt_is_said(scene: Scene) -> None:
    """models.yaml names the version of before: who applied it again took the promoted model away, and nobody heard."""
    promote(scene)
    arms = [{**ARMS[0], "model_digest": "e3"}, {**ARMS[1], "model_digest": "next"}]
    scene.patch(salt="k2", arms=arms, move={"to": "50%", "reason": "go"})
    scene.operator.advance()
    assert scene.status["phase"] == "50%" and settled(scene) == ("True", "HandedOver")
    scene.cluster.add_service("mtorl-incumbent", FIRST)
    scene.operator.advance()
    assert settled(scene) == ("False", "Changed") and f"not {WON}, which was promoted" in scene.condition("Settled")[2]
    assert "roll back, under the previous salt, 'a'" in scene.condition("Settled")[2]
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST, "the operator leaves it"
    (view,) = scene.operator.views()
    assert view["advice"]["condition"] == "held" and "what was promoted" in view["advice"]["headline"]
    assert "mtorl-incumbent is meant to serve" in view["advice"]["reason"]
    assert [reason for reason, _ in scene.cluster.said].count("Changed") == 1, "an event, once"


def test_a_new_salt_before_it_is_handed_over_holds_nothing_up(scene: Scene) -> None:
    move(scene, "promoted")
    scene.patch(salt="b", move=None)
    assert scene.condition("Accepted")[1] == "Unusable"
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()
    assert settled(scene) == ("True", "HandedOver") and answers_at(scene) == ARMS[0]["endpoint"]
    scene.patch(arms=[{**ARMS[0], "model_digest": "e3"}, {**ARMS[1], "model_digest": "next"}])
    assert scene.condition("Accepted")[1] == "Usable" and scene.status["phase"] == "draft"


@pytest.mark.parametrize("noted", [False, True])
def test_the_challengers_server_is_not_needed_once_the_other_one_was_told(scene: Scene, noted: bool) -> None:
    (promote if noted else lambda made: move(made, "promoted"))(scene)
    del scene.cluster.services["mtorl-challenger"]
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()
    assert settled(scene) == ("True", "HandedOver") and answers_at(scene) == ARMS[0]["endpoint"]


def test_a_server_that_was_made_anew_is_given_back_too(scene: Scene) -> None:
    promote(scene)
    scene.cluster.add_service("mtorl-incumbent", WON)
    scene.operator.advance()
    assert settled(scene) == ("True", "HandedOver")
    move(scene, "rolled back")
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST and settled(scene) == ("False", "RollingBack")


def test_a_server_that_was_made_anew_for_the_next_experiment_stays_as_it_is(scene: Scene) -> None:
    promote(scene)
    move(scene, "rolled back")
    scene.cluster.roll_out("mtorl-incumbent")
    scene.patch(salt="b", move={"to": "50%", "reason": "another try"})
    scene.cluster.add_service("mtorl-incumbent", WON)
    scene.operator.advance()
    assert scene.status["phase"] == "50%" and scene.cluster.version_of("mtorl-incumbent") == WON
    assert scene.condition("Settled")[2] == f"mtorl-incumbent serves {WON}: what came after it is in force, and stays"


def test_another_ones_history_that_can_not_be_read_is_a_reason_to_wait(scene: Scene) -> None:
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    beside(scene, UNPINNED, UNPINNED)
    move(scene, "stopped", "other")
    scene.cluster.status("other")["history"][0]["kind"] = "of a later version"
    move(scene, "promoted")
    assert settled(scene) == ("False", "Waits") and scene.cluster.version_of("mtorl-incumbent") == FIRST


def test_after_a_rollback_it_is_said_what_is_not_given_back(scene: Scene) -> None:
    promote(scene)
    scene.cluster.services["mtorl-incumbent"]["spec"]["predictor"]["annotations"] = {"mtorl-kubeflow/model": "third"}
    move(scene, "rolled back")
    assert settled(scene) == ("True", "Changed") and "third, which people have" in scene.condition("Settled")[2]


def test_a_slow_check_of_a_server_holds_no_kill_switch_and_no_rollback_up(scene: Scene) -> None:
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    beside(scene)
    patch, asked, answered = scene.cluster.merge_patch, threading.Event(), threading.Event()

    def slow(*change: Any, **options: Any) -> Any:
        asked.set()
        assert answered.wait(20)
        return patch(*change, **options)

    scene.cluster.merge_patch = slow  # type: ignore[method-assign]
    move(scene, "stopped", "other")
    scene.cluster.patch("other", arms=UNPINNED, salt="b", move={"to": "50%", "reason": "again"})
    scene.cluster.patch("other", arms=[{**arm, "endpoint": "http://bidder/decide"} for arm in UNPINNED])
    Operator.changed(scene.operator, "other")
    assert scene.serving("other").enabled
    scene.cluster.patch(NAME, move={"to": "promoted", "reason": "won", "force": True})
    Operator.changed(scene.operator, NAME)
    settling = threading.Thread(target=scene.operator.settle)
    settling.start()
    try:
        assert asked.wait(20)
        scene.cluster.patch("other", enabled=False)
        Operator.changed(scene.operator, "other")
        assert not scene.serving("other").enabled
        scene.cluster.patch(NAME, move={"to": "rolled back", "reason": "harm"})
        Operator.changed(scene.operator, NAME)
        assert answers_at(scene) == ARMS[0]["endpoint"]
    finally:
        answered.set()
        settling.join()
    scene.operator.settle()
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST and scene.status["phase"] == "rolled back"


def test_a_holdout_keeps_the_server_of_the_incumbent() -> None:
    scene = Scene(arms=ARMS, holdout=0.1)
    scene.cluster.add_service("mtorl-incumbent", FIRST)
    scene.cluster.add_service("mtorl-challenger", WON)
    move(scene, "50%")
    promote(scene)
    assert settled(scene) == ("True", "Holdout") and scene.cluster.version_of("mtorl-incumbent") == FIRST


@pytest.mark.parametrize(
    "changed",
    [
        {"policy": "baseline", "endpoint": None, "model_digest": None},
        {"endpoint": "http://bidder.ads.svc/decide"},
        {"endpoint": "http://mtorl-incumbent-predictor.elsewhere/v1/models/incumbent:predict"},
        {"endpoint": "http://mtorl-unknown-predictor/v1/models/incumbent:predict"},
    ],
)
def test_an_incumbent_that_is_no_server_of_ours_goes_on_at_the_challengers(changed: dict[str, Any]) -> None:
    scene = Scene(arms=[{**ARMS[0], **changed}, ARMS[1]])
    scene.cluster.add_service("mtorl-challenger", WON)
    move(scene, "50%")
    move(scene, "promoted")
    assert settled(scene) == ("True", "AtItsEndpoint") and answers_at(scene) == ARMS[1]["endpoint"]


def test_a_server_that_takes_nothing_holds_nothing_else_up(scene: Scene) -> None:
    scene.cluster.server_fault = PermissionError("may not patch inferenceservices")
    move(scene, "promoted")
    assert scene.condition("Settled") == (
        "Unknown", "NotKnown", "a model server can't be asked or told: may not patch inferenceservices"
    )  # fmt: skip
    assert answers_at(scene) == ARMS[1]["endpoint"] and shown(scene) == (False, "NotKnown")
    scene.cluster.server_fault = None
    promote(scene)
    scene.operator.advance()
    assert settled(scene) == ("True", "HandedOver")


def test_a_new_salt_goes_on_with_the_incumbents_server(scene: Scene) -> None:
    """After it was handed over, the next experiment's file names the same two servers, and the digest that won."""
    promote(scene)
    scene.patch(salt="b", move=None)
    assert scene.condition("Accepted")[1] == "Unusable", "its incumbent is pinned to the model of before"
    arms = [{**ARMS[0], "model_digest": "e3"}, {**ARMS[1], "model_digest": "next"}]
    scene.patch(arms=arms)
    assert scene.condition("Accepted")[1] == "Usable" and scene.status["phase"] == "draft"
    scene.operator.advance()
    assert scene.cluster.version_of("mtorl-incumbent") == WON
    assert shown(scene) == (True, "HandedOver"), "of the experiment before, whose model is this one's incumbent"


@pytest.mark.parametrize("seed", range(60))
def test_killed_at_any_request_nothing_is_told_twice_and_nothing_forgotten(seed: int) -> None:
    """Promotion, perhaps a rollback, and an operator that dies at random: each server ends where the history says."""
    rng = random.Random(seed)
    scene = Scene(arms=ARMS)
    scene.cluster.add_service("mtorl-incumbent", FIRST)
    scene.cluster.add_service("mtorl-challenger", WON)
    scene.operator.changed(NAME)
    asked = ["50%", "promoted", *(["rolled back"] if rng.random() < 0.6 else [])]
    told = scene.cluster.told
    for to in asked:
        scene.cluster.patch(NAME, move={"to": to, "reason": to, "force": to == "promoted"})
        for _ in range(rng.randrange(1, 5)):
            setattr(
                scene.cluster, rng.choice(["dies_before", "dies_after"]), scene.cluster.requests + rng.randrange(25)
            )
            try:
                scene.operator.changed(NAME)
                if rng.random() < 0.5:
                    scene.cluster.roll_out("mtorl-incumbent")
                scene.operator.advance()
            except Killed:
                scene.restart()
            scene.cluster.dies_before = scene.cluster.dies_after = None
        if scene.status["phase"] != to:  # each operator died before it saw what was asked for
            scene.operator.changed(NAME)
    for _ in range(3):
        scene.operator.changed(NAME)
        scene.operator.advance()
        scene.cluster.roll_out("mtorl-incumbent")
    events = scene.events()
    assert [event.to or event.kind for event in events if event.kind == "move"] == asked
    rolled_back = asked[-1] == "rolled back"
    assert scene.cluster.version_of("mtorl-incumbent") == (FIRST if rolled_back else WON)
    changes = [version for number, version in enumerate(told) if told[number - 1 : number] != [version]]
    assert changes == ([] if not told else [WON, FIRST] if rolled_back else [WON])
    if told:  # not rolled back before anything was told
        assert settled(scene) == (("True", "RolledBack") if rolled_back else ("True", "HandedOver"))
    assert sum(event.kind == "handed over" for event in events) <= 1
    assert answers_at(scene) == ARMS[0]["endpoint"]


def test_it_is_handed_over_once(scene: Scene) -> None:
    promote(scene)
    experiment, events = scene.serving(), scene.events()
    for tried in (events, events[:1]):
        with pytest.raises(ValueError, match="there is no promotion to hand over"):
            next_event(tried, experiment, "handed over", at=0.0, by="ramp", reason="again")
    before = [Event.model_validate({**event.model_dump(), "number": number}) for number, event in enumerate(events, 1)]
    assert state_of(before, experiment).phase == "promoted"


def test_a_conflict_meanwhile_is_no_second_event(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    move(scene, "promoted")
    scene.cluster.roll_out("mtorl-incumbent")
    refused = refuse_once(scene, monkeypatch)
    scene.operator.advance()
    assert refused and [event.kind for event in scene.events()][-2:] == ["move", "handed over"]
    assert answers_at(scene) == ARMS[0]["endpoint"]

"""Tests that the incumbent's InferenceService serves the winning version after a promotion."""

import random
import threading
from typing import Any

import pytest

from pipelines.experiments.operator.operator import Operator
from serving.messages import NOT_BEGUN
from tests.pipelines.experiments.fake_cluster import Killed
from tests.pipelines.experiments.test_operator import NAME, Scene, Step, advance, refuse_once, tell

URL = "http://mtorl-{}-predictor/v1/models/{}:predict"
ARMS = [
    {"name": "incumbent", "weight": 0.5, "endpoint": URL.format("incumbent", "incumbent"), "model_digest": "0ld"},
    {"name": "challenger", "weight": 0.5, "endpoint": URL.format("challenger", "challenger"), "model_digest": "e3"},
]
UNPINNED = [{key: value for key, value in arm.items() if key != "model_digest"} for arm in ARMS]
FIRST, WON = "incumbent/first", "challenger/won"


def begun(**changes: Any) -> Scene:
    """Return an experiment at its last stage, with a model server for each arm."""
    made = Scene(**{"arms": ARMS, **changes})
    made.cluster.add_service("mtorl-incumbent", FIRST)
    made.cluster.add_service("mtorl-challenger", WON)
    made.operator.changed(NAME)
    move(made, "50%")
    return made


@pytest.fixture
def scene() -> Scene:
    return begun()


def move(scene: Scene, to: str, name: str = NAME) -> None:
    asked = {"to": to, "reason": f"because, {scene.cluster.requests}"}
    scene.patch(name, move={**asked, "force": True} if to == "promoted" else asked)


def in_two_parts(scene: Scene, *arms: list[dict[str, Any]]) -> None:
    """Replace the experiment by two experiments, each on one half of the same layer.

    Both use the same model servers unless `arms` are given.
    """
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    for (name, part), given in zip(((NAME, [0, 0.5]), ("other", [0.5, 1])), arms or (ARMS, ARMS), strict=True):
        spec = Scene(arms=given, layer_part=part, salt=name).cluster.objects[NAME]["spec"]
        scene.cluster.apply(name, {**spec, "move": {"to": "50%", "reason": "go"}})
        scene.operator.changed(name)


def settled(scene: Scene) -> tuple[str, str]:
    return scene.condition("Settled")[:2]


def answers_at(scene: Scene) -> str:
    return str(scene.serving().arm("incumbent").endpoint)


def to(phase: str, name: str = NAME) -> Step:
    return lambda scene: move(scene, phase, name)


def rolled_out(scene: Scene) -> None:
    scene.cluster.roll_out("mtorl-incumbent")
    scene.operator.advance()


def applied(server: str, version: str) -> Step:
    def apply(scene: Scene) -> None:
        scene.cluster.apply_version(f"mtorl-{server}", version)
        scene.operator.advance()

    return apply


def recreated(version: str) -> Step:
    """Return an action: the incumbent's server is recreated without the operator's annotation."""

    def make(scene: Scene) -> None:
        scene.cluster.add_service("mtorl-incumbent", version)
        scene.operator.advance()

    return make


def patched(name: str = NAME, **fields: Any) -> Step:
    def patch(scene: Scene) -> None:
        scene.patch(name, **fields)
        scene.operator.advance()

    return patch


def server_fault(fault: OSError | None) -> Step:
    return lambda scene: setattr(scene.cluster, "server_fault", fault)


def no_challenger(scene: Scene) -> None:
    del scene.cluster.services["mtorl-challenger"]


def unreadable_history(scene: Scene) -> None:
    scene.cluster.status("other")["history"][0]["kind"] = "of a later version"


NEXT = [{**ARMS[0], "model_digest": "e3"}, {**ARMS[1], "model_digest": "next"}]
"""Arms of the next experiment, in which the incumbent's own server serves the promoted model."""
GO = {"to": "50%", "reason": "again"}
STORIES: dict[str, list[tuple[Step, dict[str, Any]]]] = {
    "the incumbent's server takes the winning version, which frees the challenger's server": [
        (to("promoted"), {"Settled": "RollingOut", "version": WON, "at": "challenger", "page": False}),
        (advance, {"Settled": "RollingOut", "at": "challenger", "says": NOT_BEGUN()}),
        (rolled_out, {"Settled": "HandedOver", "at": "incumbent", "digest": "e3", "page": True}),
        (applied("challenger", "next"), {"version": WON, "events": ["50%", "promoted", "handed over"]}),
    ],
    "an apply does not bring back a version that was rolled back": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (to("rolled back"), {"version": FIRST, "Settled": "RollingBack", "at": "incumbent", "digest": "0ld"}),
        (rolled_out, {"Settled": "RolledBack"}),
        (applied("incumbent", WON), {"version": FIRST}),
    ],
    "a rollback with a broken spec": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (patched(budgets=[], move={"to": "rolled back", "reason": "harm"}), {"version": FIRST, "Accepted": "Unusable"}),
    ],
    "a version that a person applies later stays, even after a rollback": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (applied("incumbent", FIRST), {"version": FIRST, "Settled": "Changed", "says": f"from {WON}"}),
        (applied("incumbent", "third"), {}),
        (to("rolled back"), {"version": "third", "Settled": "GoneOn", "says": "third"}),
    ],
    "an apply before the hand-over is left in place, and an apply of the winner completes it": [
        (to("promoted"), {}),
        (lambda scene: scene.cluster.apply_version("mtorl-challenger", "next"), {}),
        (applied("incumbent", FIRST), {"version": FIRST, "Settled": "NotInGit", "at": "challenger"}),
        (advance, {"version": FIRST, "page": False}),
        (applied("incumbent", WON), {"Settled": "RollingOut", "at": "challenger"}),
        (rolled_out, {"Settled": "HandedOver", "at": "incumbent"}),
    ],
    "an apply that undoes a promotion under the next salt is reported": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (patched(salt="k2", arms=NEXT, move=GO), {"phase": "50%", "Settled": "HandedOver"}),
        (recreated(FIRST), {"Settled": "Changed", "version": FIRST, "says": "salt 'a'"}),
        (advance, {"advice": "held", "told": 1}),
    ],
    "the challenger's server is not needed once the rollout has begun": [
        (to("promoted"), {}),
        (no_challenger, {}),
        (rolled_out, {"Settled": "HandedOver", "at": "incumbent"}),
    ],
    "a recreated server is rolled back, too": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (recreated(WON), {"Settled": "HandedOver"}),
        (to("rolled back"), {"version": FIRST, "Settled": "RollingBack"}),
    ],
    "a server recreated for the next experiment stays as it is": [
        (to("promoted"), {}),
        (rolled_out, {}),
        (to("rolled back"), {}),
        (rolled_out, {}),
        (patched(salt="b", move=GO), {"phase": "50%"}),
        (recreated(WON), {"phase": "50%", "version": WON, "Settled": "GoneOn"}),
    ],
    "a server that refuses changes delays nothing else": [
        (server_fault(PermissionError("may not patch inferenceservices")), {}),
        (to("promoted"), {"Settled": "NotKnown", "at": "challenger", "page": False}),
        (server_fault(None), {}),
        (to("promoted"), {}),
        (advance, {}),
        (rolled_out, {"Settled": "HandedOver"}),
    ],
    "a new salt continues with the incumbent's server and delays no hand-over": [
        (to("promoted"), {}),
        (patched(salt="b", move=None), {"Accepted": "Unusable"}),
        (rolled_out, {"Settled": "HandedOver", "at": "incumbent"}),
        (patched(arms=NEXT), {"Accepted": "Usable", "phase": "draft", "version": WON, "page": True}),
    ],
    "a version stays while another experiment compares with it": [
        (in_two_parts, {}),
        (to("promoted"), {"Settled": "WaitsForEnd", "version": FIRST}),
        (patched("other", enabled=False), {"Settled": "WaitsForEnd", "version": FIRST, "at": "challenger"}),
        (patched("other", enabled=True), {}),
        (to("stopped", "other"), {}),
        (
            advance,
            {"Settled": "WaitsForDigest", "says": "0ld"},
            # The experiment requires the old model's digest. If the new version served, users would get the default
            # action.
        ),
        (patched("other", arms=UNPINNED), {"version": WON}),
    ],
    "an unreadable history of another experiment delays the hand-over": [
        (lambda scene: in_two_parts(scene, UNPINNED, UNPINNED), {}),
        (to("stopped", "other"), {}),
        (unreadable_history, {}),
        (to("promoted"), {"Settled": "WaitsForOther", "version": FIRST}),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_a_story(scene: Scene, story: str) -> None:
    tell(scene, STORIES[story])


@pytest.mark.parametrize("seed", range(20))
def test_two_promotions_in_one_layer_never_take_a_server_from_each_other(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    scene.cluster.add_service("mtorl-second", "second/won")
    in_two_parts(scene, UNPINNED, [UNPINNED[0], {**UNPINNED[1], "endpoint": URL.format("second", "challenger")}])
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
    assert len(alone) <= 1, "the server takes the version of at most one promotion"


def test_a_slow_check_of_a_server_does_not_delay_a_rollback(scene: Scene) -> None:
    patch, asked, answered = scene.cluster.merge_patch, threading.Event(), threading.Event()

    def slow(*change: Any, **options: Any) -> Any:
        asked.set()
        assert answered.wait(20)
        return patch(*change, **options)

    scene.cluster.merge_patch = slow  # type: ignore[method-assign]
    scene.cluster.patch(NAME, move={"to": "promoted", "reason": "won", "force": True})
    Operator.changed(scene.operator, NAME)
    settling = threading.Thread(target=scene.operator.settle)
    settling.start()
    try:
        assert asked.wait(20)
        scene.cluster.patch(NAME, move={"to": "rolled back", "reason": "harm"})
        Operator.changed(scene.operator, NAME)
        assert answers_at(scene) == ARMS[0]["endpoint"], "a rollback must not wait for the check of a server"
    finally:
        answered.set()
        settling.join()
    scene.operator.settle()
    assert scene.cluster.version_of("mtorl-incumbent") == FIRST and scene.status["phase"] == "rolled back"


@pytest.mark.parametrize(
    "changed",
    [
        {"policy": "baseline", "endpoint": None, "model_digest": None},
        {"endpoint": "http://bidder.ads.svc/decide"},
        {"endpoint": "http://mtorl-incumbent-predictor.elsewhere/v1/models/incumbent:predict"},
        {"endpoint": "http://mtorl-unknown-predictor/v1/models/incumbent:predict"},
    ],
)
def test_a_promotion_over_an_external_incumbent_stays_at_the_challengers_server(changed: dict[str, Any]) -> None:
    scene = Scene(arms=[{**ARMS[0], **changed}, ARMS[1]])
    scene.cluster.add_service("mtorl-challenger", WON)
    move(scene, "50%")
    move(scene, "promoted")
    assert settled(scene) == ("True", "AtItsEndpoint") and answers_at(scene) == ARMS[1]["endpoint"]


@pytest.mark.parametrize("seed", range(60))
def test_a_crash_at_any_request_neither_repeats_nor_loses_a_hand_over(seed: int) -> None:
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
        # The operator may have crashed each time before it read the user's request.
        if scene.status["phase"] != to:
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
    # After a rollback before the hand-over, no version was ever set.
    if told:
        assert settled(scene) == (("True", "RolledBack") if rolled_back else ("True", "HandedOver"))
    assert sum(event.kind == "handed over" for event in events) <= 1
    assert answers_at(scene) == ARMS[0]["endpoint"]


def test_a_write_conflict_does_not_repeat_the_event(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    move(scene, "promoted")
    scene.cluster.roll_out("mtorl-incumbent")
    refused = refuse_once(scene, monkeypatch)
    scene.operator.advance()
    assert refused and [event.kind for event in scene.events()][-2:] == ["move", "handed over"]
    assert answers_at(scene) == ARMS[0]["endpoint"]

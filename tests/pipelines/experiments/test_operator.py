"""The operator on a fake API server: what people ask for in a spec, what the ramp does, and death at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from monitoring.experiments.view import Known
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event, next_event, state_of
from mtorl.experiment.stage_machine import STAGES, ArmEvidence, Evidence, in_force
from mtorl.log.touchpoints import LogError
from pipelines.experiments.api import Conflict
from pipelines.experiments.config_map import IN_FORCE
from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import SILENT_SECONDS, Routers
from pipelines.experiments.resource import ExperimentResource
from tests.mtorl.experiment.experiments import FILE
from tests.pipelines.experiments.fake_cluster import FakeCluster, Killed

HOUR = 3600.0
SPEC = {name: value for name, value in FILE.items() if name != "name"}
NAME = str(FILE["name"])
ARMS = {"incumbent": ArmEvidence(500), "challenger": ArmEvidence(500)}
VERDICT = {
    "verdict": "inconclusive",
    "reason": "contains zero",
    "relative_lift": 0.031,
    "lift_ci": [-0.001, 0.0123],
    "arms": {"incumbent": {"users": 500, "cost": 10.0}, "challenger": {"users": 490, "cost": 11.5}},
}


class Scene:
    """An operator, its cluster, its log and its clock."""

    def __init__(self, **changes: Any) -> None:
        self.cluster = FakeCluster()
        self.now = 0.0
        self.put_forward = 0.0
        self.evidence: Callable[[], Known | None] = lambda: Known(
            VERDICT, Evidence("inconclusive", "contains zero", "challenger", (), ARMS), looked=self.now
        )
        self.cluster.apply(NAME, {**SPEC, **changes})
        self.restart()

    def restart(self) -> None:
        """Another process."""
        self.operator = Operator(
            self.cluster, self, None, clock=lambda: self.now + self.put_forward, steady=lambda: self.now
        )

    def look(self, experiment: Experiment, since: float, now: float) -> Known | None:
        return self.evidence()

    def patch(self, **fields: Any) -> None:
        self.cluster.patch(NAME, **fields)
        self.operator.changed(NAME)

    @property
    def status(self) -> dict[str, Any]:
        return self.cluster.status(NAME)

    def condition(self, kind: str) -> tuple[str, str, str]:
        (found,) = (one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def events(self) -> list[Event]:
        return [Event.model_validate(event) for event in self.status.get("history", ())]

    def serving(self) -> Experiment:
        assert self.cluster.config_map is not None
        return Experiment.from_dict(yaml.safe_load(self.cluster.config_map["data"][IN_FORCE]))


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.operator.changed(NAME)
    return made


def begin(scene: Scene) -> None:
    scene.patch(move={"to": "shadow", "reason": "go"})


def test_from_draft_to_a_promotion_and_back(scene: Scene) -> None:
    assert scene.status["phase"] == "draft" and not scene.serving().enabled
    begin(scene)
    assert (scene.status["phase"], scene.serving().stage, scene.serving().enabled) == ("shadow", "shadow", True)
    for hours, stage in ((2, "5%"), (6, "50%")):
        scene.now = hours * HOUR
        scene.operator.advance()
        assert scene.status["phase"] == scene.serving().stage == stage
    assert {name: scene.status[name] for name in ("users", "lift", "interval", "spend", "verdict")} == {
        "users": 990, "lift": "+3.1%", "interval": "[-0.001, +0.0123]", "spend": "21.50", "verdict": "inconclusive",
    }  # fmt: skip
    scene.operator.advance()
    assert scene.condition("Progressing")[:2] == ("True", "Waiting")
    scene.patch(move={"to": "promoted", "reason": "it wins"})
    assert scene.serving().arm("incumbent").url == "http://127.0.0.1:8085/v1/models/challenger:predict"
    scene.operator.advance()
    assert scene.condition("Progressing")[:2] == ("False", "Over")
    scene.patch(move={"to": "rolled back", "reason": "calls"})
    assert scene.serving().arm("incumbent").policy == "baseline"
    assert [reason for reason, _ in scene.cluster.said] == [
        "Shadow", "Stage5Percent", "Stage50Percent", "Promoted", "RolledBack",
    ]  # fmt: skip


def test_the_kill_switch_is_a_field_and_its_use_is_history(scene: Scene) -> None:
    begin(scene)
    scene.patch(enabled=False)
    assert not scene.serving().enabled and scene.events()[-1].kind == "kill"
    scene.operator.advance()
    assert not scene.serving().enabled
    scene.patch(enabled=True)
    assert scene.serving().enabled and [event.kind for event in scene.events()] == ["move", "kill", "resume"]


def test_a_kill_switch_in_the_config_map_is_not_undone(scene: Scene) -> None:
    """The runbooks' command, of somebody who does not know that there is an operator."""
    begin(scene)
    assert scene.cluster.config_map is not None
    data = scene.cluster.config_map["data"]
    data[IN_FORCE] = data[IN_FORCE].replace("enabled: true", "enabled: false")
    for hours in (1, 2, 3):
        scene.now = hours * HOUR
        scene.operator.advance()
        assert not scene.serving().enabled and scene.condition("Accepted")[1] == "SwitchedOffByHand"
    scene.patch(owner="somebody else")
    assert scene.serving().enabled and scene.condition("Accepted")[1] == "Usable"
    data = scene.cluster.config_map["data"]
    data[IN_FORCE] = data[IN_FORCE].replace("alpha: 0.05", "alpha: 0.01")
    scene.operator.advance()
    assert scene.serving().alpha == 0.05, "any other edit is put back: the object is the truth"


@pytest.mark.parametrize(
    "broken", [{"alpha": 7}, {"arms": []}, {"metrics": {"primary": "nonsense"}}, {"alpha": 0.2}, {"budgets": None}]
)
def test_what_can_not_be_used_is_said_and_changes_nothing(scene: Scene, broken: dict[str, Any]) -> None:
    begin(scene)
    before = scene.serving()
    scene.patch(**broken)
    scene.operator.advance()
    assert scene.condition("Accepted")[:2] == ("False", "Unusable")
    assert scene.serving() == before and len(scene.events()) == 1
    scene.patch(enabled=False)
    assert not scene.serving().enabled, "the kill switch works with a broken spec"
    scene.patch(**{name: SPEC[name] for name in broken})
    assert scene.condition("Accepted")[:2] == ("True", "Usable") and not scene.serving().enabled
    scene.patch(enabled=True)
    assert scene.serving() == before


def test_a_move_is_looked_at_once(scene: Scene) -> None:
    scene.patch(move={"to": "promoted", "reason": "now"})
    assert scene.condition("Accepted") == ("True", "Refused", f"{NAME}: it has not begun")
    begin(scene)
    scene.patch(move={"to": "50%", "reason": "on"})
    scene.patch(move={"to": "5%", "reason": "back"})
    scene.operator.changed(NAME)
    scene.operator.advance()
    assert [event.to for event in scene.events()] == ["shadow", "50%", "5%"]
    scene.patch(move={"to": "sideways", "reason": "?"})
    assert scene.condition("Accepted")[1] == "Refused"


def test_a_log_that_can_not_be_read_moves_nothing(scene: Scene) -> None:
    begin(scene)

    def torn() -> Known | None:
        raise LogError("torn")

    scene.evidence, scene.now = torn, 100 * HOUR
    scene.operator.advance()
    assert scene.condition("Progressing") == ("False", "LogUnreadable", "torn") and scene.status["phase"] == "shadow"


def test_a_clock_that_is_put_forward_for_a_moment_moves_nothing(scene: Scene) -> None:
    begin(scene)
    scene.operator.advance()
    scene.put_forward = 1000 * HOUR
    scene.operator.advance()
    assert scene.status["phase"] == "shadow"
    scene.put_forward, scene.now = 0.0, 2 * HOUR
    scene.operator.advance()
    assert scene.status["phase"] == "5%"


def test_what_follows_from_an_older_state_does_not_replace_a_newer_one(scene: Scene) -> None:
    """A slow thread, or an operator that was believed dead, comes back after the kill switch was pulled."""
    begin(scene)
    old = ExperimentResource.read(scene.cluster, NAME)
    assert old is not None
    going_on = in_force(old.definition(), state_of(old.events(), old.definition()))
    scene.patch(enabled=False)
    with pytest.raises(Conflict):
        old.put_in_force(going_on.replace(alpha=0.04))
    with pytest.raises(Conflict):
        old.append(next_event(old.events(), old.definition(), "move", at=0, by="ramp", reason="late", to="5%"))
    assert not scene.serving().enabled


def test_a_second_experiment_waits_for_the_end_of_the_first(scene: Scene) -> None:
    begin(scene)
    other = {**SPEC, "salt": "other"}
    scene.cluster.apply("second", {**other, "move": {"to": "shadow", "reason": "me, too"}})
    scene.operator.changed("second")
    (said,) = scene.cluster.status("second")["conditions"]
    assert (said["status"], said["reason"]) == ("False", "NotItsTurn") and scene.serving().name == NAME
    scene.cluster.patch("second", enabled=False)
    scene.operator.changed("second")
    assert scene.serving().enabled, "its kill switch is not that of the first one"
    scene.cluster.patch("second", enabled=True)
    scene.patch(move={"to": "50%", "reason": "on"})
    scene.patch(move={"to": "promoted", "reason": "it wins"})
    scene.operator.advance()
    (said,) = scene.cluster.status("second")["conditions"]
    assert said["reason"] == "Unusable" and "was promoted in" in said["message"], "its incumbent is the one of before"
    scene.patch(move={"to": "rolled back", "reason": "calls"})
    scene.operator.advance()
    assert scene.serving().name == "second" and scene.serving().enabled


def test_a_deleted_experiment_ends(scene: Scene) -> None:
    begin(scene)
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    assert not scene.serving().enabled
    scene.cluster.apply("second", {**SPEC, "salt": "other"})
    scene.operator.changed("second")
    assert scene.serving().name == "second"


def test_routers_say_what_they_have() -> None:
    clock = [0.0]
    routers = Routers(lambda: clock[0])
    assert routers.condition("a")[1:3] == ("Unknown", "NoRouter")
    routers.heard("one", "a")
    routers.heard("two", "b")
    assert routers.condition("a")[1:] == ("False", "Behind", "not yet on two")
    routers.heard("two", "a")
    assert routers.condition("a")[1:] == ("True", "EveryRouter", "on one, two")
    clock[0] = SILENT_SECONDS / 2
    routers.heard("one", "a")
    clock[0] = SILENT_SECONDS
    assert routers.condition("a")[3] == "on one"


def test_the_status_says_whether_routers_have_it(scene: Scene) -> None:
    begin(scene)
    scene.operator.routers.heard("one", scene.serving().version)
    scene.operator.watch()
    assert scene.condition("InForce") == ("True", "EveryRouter", "on one")
    version = scene.cluster.objects[NAME]["metadata"]["resourceVersion"]
    scene.operator.watch()
    assert scene.cluster.objects[NAME]["metadata"]["resourceVersion"] == version, "what is the same is not written"


@pytest.mark.parametrize("seed", range(4))
def test_killed_a_hundred_times_it_makes_no_move_twice_and_none_that_is_illegal(seed: int) -> None:
    """People and the ramp act; the process dies before or after any request, and another one goes on."""
    rng = random.Random(seed)
    scene = Scene()
    kills = 0
    for _ in range(3000):
        if kills >= 100:
            break
        scene.now += rng.uniform(0, HOUR)
        people: list[Callable[[], None]] = [
            lambda: scene.cluster.patch(NAME, enabled=rng.random() < 0.6),
            lambda: scene.cluster.patch(NAME, move={"to": rng.choice(STAGES), "reason": f"at {scene.now:.0f}"}),
            lambda: scene.cluster.patch(NAME, alpha=rng.choice([0.05, 0.05, 0.2, 7])),
        ]
        if rng.random() < 0.3:
            rng.choice(people)()
        death = scene.cluster.requests + rng.randrange(1, 15)
        scene.cluster.dies_before, scene.cluster.dies_after = (death, None) if rng.random() < 0.5 else (None, death)
        before = [event.line() for event in scene.events()]
        try:
            rng.choice([lambda: scene.operator.changed(NAME), scene.operator.advance])()
        except Killed:
            kills += 1
            scene.restart()
        scene.cluster.dies_before = scene.cluster.dies_after = None
        after = [event.line() for event in scene.events()]
        assert after[: len(before)] == before, "the history only grows"
    assert kills >= 100
    events, spec = scene.events(), {**scene.cluster.objects[NAME]["spec"], "alpha": 0.05}
    spec.pop("move", None)
    definition = Experiment.from_dict({"name": NAME, **spec})
    for number, event in enumerate(events):  # each was legal when it was written: it can be written again
        again = next_event(
            events[:number],
            definition.replace(enabled=True),
            event.kind,
            at=event.at,
            by=event.by,
            reason=event.reason,
            to=event.to,
            challenger=event.challenger,
        )
        assert again.number == event.number
    assert len({event.reason for event in events if event.reason.startswith("at ")}) == sum(
        event.reason.startswith("at ") for event in events
    ), "what a person asks for once is done once"
    scene.cluster.patch(NAME, alpha=0.05)
    scene.operator.changed(NAME)
    assert scene.serving() == in_force(
        definition.replace(enabled=bool(spec["enabled"])), state_of(scene.events(), definition)
    ), "in force is what follows from spec and history"


def test_page_and_gauges_show_what_was_found_last(scene: Scene) -> None:
    begin(scene)
    scene.operator.advance()
    (view,) = scene.operator.views()
    assert (view["name"], view["phase"], view["problem"], view["in_force"]) == (NAME, "shadow", None, True)
    assert view["verdict"] is not None and view["verdict"]["verdict"] == "inconclusive"
    scene.patch(alpha=7)
    (view,) = scene.operator.views()
    assert view["problem"] is not None and "alpha" in view["problem"] and view["phase"] == "shadow"
    scene.patch(alpha=SPEC["alpha"], enabled=False)
    (view,) = scene.operator.views()
    assert view["advice"]["command"] == (
        f"kubectl -n ads patch exp {NAME} --type merge -p '" + '{"spec": {"enabled": true}}' + "'"
    )
    scene.cluster.delete(NAME)
    assert scene.operator.views() == []


def test_an_experiment_that_was_deleted_while_the_operator_was_away_ends(scene: Scene) -> None:
    begin(scene)
    scene.cluster.delete(NAME)
    scene.restart()
    scene.operator.watch()
    assert not scene.serving().enabled
    requests = scene.cluster.requests
    scene.operator.watch()
    assert scene.cluster.requests - requests <= 3, "it is ended once"


def test_a_change_that_was_not_heard_is_followed_within_a_second(scene: Scene) -> None:
    """The API server answered nothing when it was heard of, for longer than it is tried again."""
    begin(scene)
    scene.operator.routers.heard("one", scene.serving().version)
    scene.operator.watch()
    scene.cluster.patch(NAME, enabled=False)
    scene.operator.watch()
    assert not scene.serving().enabled and scene.events()[-1].kind == "kill"
    scene.operator.watch()
    assert scene.condition("InForce")[:2] == ("False", "Behind"), "nobody says that routers have what they have not"


def test_the_kill_switch_needs_no_history(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object has at most 1.5 MB: after thousands of events nothing can be added."""
    begin(scene)
    written = scene.cluster.replace_status

    def full(found: Any) -> Any:
        if len(found["status"]["history"]) > 1:
            raise ConnectionError("etcdserver: request is too large")
        return written(found)

    monkeypatch.setattr(scene.cluster, "replace_status", full)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    scene.patch(enabled=False)
    assert not scene.serving().enabled and len(scene.events()) == 1
    monkeypatch.undo()
    scene.operator.watch()
    assert not scene.serving().enabled and scene.events()[-1].kind == "kill", "what was not written is written later"


def test_a_kill_switch_with_kubectl_replace_is_not_undone(scene: Scene) -> None:
    """The whole ConfigMap is made anew from a file, and knows nothing of an operator."""
    begin(scene)
    assert scene.cluster.config_map is not None
    del scene.cluster.config_map["metadata"]["annotations"]
    data = scene.cluster.config_map["data"]
    data[IN_FORCE] = data[IN_FORCE].replace("enabled: true", "enabled: false")
    scene.cluster.apply("second", {**SPEC, "salt": "other"})
    scene.operator.changed("second")
    assert scene.serving().name == NAME, "it is not free for others"
    scene.operator.advance()
    assert not scene.serving().enabled and scene.condition("Accepted")[1] == "SwitchedOffByHand"
    scene.patch(owner="somebody else")
    assert scene.serving().enabled


def test_an_experiment_without_an_operator_becomes_an_object(scene: Scene) -> None:
    begin(scene)
    other = FakeCluster()
    other.config_map = scene.cluster.config_map
    assert other.config_map is not None
    del other.config_map["metadata"]["annotations"]
    scene.cluster = other
    scene.restart()
    scene.operator.watch()
    assert scene.serving().enabled, "nobody has deleted its object"
    other.apply(NAME, {**SPEC, "move": {"to": "shadow", "reason": "it was there already"}})
    scene.operator.changed(NAME)
    assert scene.serving().enabled and scene.status["phase"] == "shadow"


@pytest.mark.parametrize("content", [None, "", "{", "start: 2026-02-30", "alpha: 7"])
def test_a_config_map_that_is_broken_by_hand_is_mended(scene: Scene, content: str | None) -> None:
    begin(scene)
    before = scene.serving()
    assert scene.cluster.config_map is not None
    for off in (False, True):
        scene.cluster.config_map.pop("data")
        if content is not None:
            scene.cluster.config_map["data"] = {IN_FORCE: content}
        scene.cluster.patch(NAME, enabled=not off)
        scene.operator.watch()
        assert scene.serving() == before.replace(enabled=not off)


def test_a_config_map_that_was_deleted_goes_to_the_experiment_that_has_started(scene: Scene) -> None:
    scene.cluster.apply("a-draft", {**SPEC, "salt": "other"})
    begin(scene)
    scene.cluster.config_map = None
    scene.operator.changed("a-draft")
    assert scene.cluster.config_map is None
    scene.operator.advance()
    assert scene.serving().name == NAME and scene.serving().enabled


def test_an_older_move_that_is_applied_again_is_not_made_again(scene: Scene) -> None:
    """A file in a repository has the first move, and people patch further ones."""
    for to, reason in (("5%", "as in the file"), ("50%", "on"), ("5%", "as in the file")):
        scene.patch(move={"to": to, "reason": reason})
    assert [event.to for event in scene.events()] == ["5%", "50%"]
    assert scene.condition("Accepted")[1] == "Refused" and "another reason" in scene.condition("Accepted")[2]
    scene.patch(move={"to": "5%", "reason": "back, since it is slow"})
    assert scene.serving().stage == "5%"
    scene.patch(salt="another", move={"to": "50%", "reason": "on"})
    assert scene.serving().stage == "50%", "another experiment"


def test_a_promotion_ends_with_a_rollback_also_of_a_broken_spec(scene: Scene) -> None:
    begin(scene)
    scene.patch(move={"to": "promoted", "reason": "it wins"})
    scene.patch(enabled=False)
    assert scene.condition("Accepted")[1] == "Refused" and "rolled back" in scene.condition("Accepted")[2]
    scene.patch(alpha=7, move={"to": "rolled back", "reason": "calls"})
    assert scene.condition("Accepted")[1] == "Unusable"
    assert scene.events()[-1].to == "rolled back" and scene.serving().arm("incumbent").policy == "baseline"


def test_one_that_can_not_be_looked_at_stops_none_of_the_others(scene: Scene) -> None:
    begin(scene)
    scene.cluster.objects = {"first": {"metadata": {"name": "first"}}, **scene.cluster.objects}
    scene.now = 2 * HOUR
    scene.operator.advance()
    assert scene.status["phase"] == "5%"


def test_a_breach_counts_though_the_object_changes_while_the_log_is_read(scene: Scene) -> None:
    """Reading a log takes minutes, and routers come and go: their condition is in the same object."""
    begin(scene)
    looks = 0

    def found() -> Known:
        nonlocal looks
        looks += 1
        scene.operator.routers.heard(f"router {looks}", scene.serving().version)
        scene.operator.watch()
        return Known(VERDICT, Evidence("inconclusive", "", "challenger", ("cost is up",), ARMS))

    scene.evidence = found
    scene.operator.advance()
    assert scene.status["phase"] == "rolled back" and looks == 1


def test_figures_are_those_of_the_present_salt(scene: Scene) -> None:
    begin(scene)
    scene.operator.advance()
    assert scene.status["users"] == 990
    scene.patch(salt="another", move=None)
    scene.operator.advance()
    assert scene.status["phase"] == "draft" and not {"users", "lift", "interval", "verdict"} & set(scene.status)
    (view,) = scene.operator.views()
    assert view["verdict"] is None


def test_what_is_over_is_shown_with_its_figures_by_the_next_operator_too(scene: Scene) -> None:
    begin(scene)
    scene.operator.advance()
    scene.patch(move={"to": "stopped", "reason": "enough"})
    scene.restart()
    scene.now = 5 * HOUR
    scene.operator.advance()
    scene.now = 9 * HOUR
    scene.operator.advance()
    (view,) = scene.operator.views()
    assert view["verdict"] is not None and scene.status["users"] == 990
    assert view["looked"] == "1970-01-01T05:00:00+00:00", "how old the figures are, not when they are shown"


def test_the_page_has_an_experiment_that_waits_for_its_turn(scene: Scene) -> None:
    begin(scene)
    scene.cluster.apply("second", {**SPEC, "salt": "other"})
    scene.operator.changed("second")
    first, second = scene.operator.views()
    assert first["problem"] is None
    assert (second["name"], second["phase"]) == ("second", "draft") and "which is not over" in str(second["problem"])

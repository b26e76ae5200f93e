"""Tests that the operator moves experiments by their specs and ramps, and recovers from crashes."""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from monitoring.experiments.document import Newest
from monitoring.experiments.findings import Findings
from monitoring.messages import NOT_IN_LOG
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event, next_event, state_of
from mtorl.experiment.messages import DRAFT, HOURS, KILL_SWITCH_ON, NOT_BEGUN, UNDECIDED
from mtorl.experiment.stage_machine import STAGES, ArmEvidence, Evidence, in_force
from mtorl.log.touchpoints import LogError
from mtorl.runtime.clock_jumps import ClockJumps
from pipelines import messages
from pipelines.experiments.cluster_api import REASON
from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import SILENT_SECONDS, Routers
from pipelines.experiments.operator.status import figures_of
from pipelines.experiments.resource import ExperimentResource
from serving.inference_services import InferenceServices
from serving.kubernetes_api import Conflict
from tests.features.collect.decision_logs import SPEC as DATASET
from tests.monitoring.experiments.made_views import traffic, verdict
from tests.mtorl.experiment.experiments import FILE
from tests.pipelines.experiments.fake_cluster import FakeCluster, Killed

HOUR = 3600.0
SPEC = {name: value for name, value in FILE.items() if name != "name"}
NAME = str(FILE["name"])
ARMS = {"incumbent": ArmEvidence(500), "challenger": ArmEvidence(500)}
NEWEST = Newest(at="2026-11-28T09:30:00+00:00", age_seconds=240.0, silence=None)
TRAFFIC = traffic(dict.fromkeys(ARMS, 100))
ZERO = UNDECIDED(low=-0.001, high=0.0123)
VERDICT = verdict(
    "inconclusive", ZERO, {"incumbent": 500, "challenger": 490}, 0.0056,
    users=940, lift_ci=[-0.001, 0.0123], relative_lift=0.031,
)  # fmt: skip


class Prompt(Operator):
    """An operator that updates the model servers at once, and not in another thread."""

    def changed(self, name: str) -> None:
        super().changed(name)
        self.settle()


class Scene:
    def __init__(self, **changes: Any) -> None:
        self.cluster = FakeCluster()
        self.now = 0.0
        self.put_forward = 0.0
        self.evidence: Callable[[], Findings] = lambda: Findings(
            VERDICT,
            Evidence("inconclusive", ZERO, "challenger", (), ARMS),
            traffic=TRAFFIC,
            newest=NEWEST,
            looked=self.now,
        )
        self.cluster.apply(NAME, {**SPEC, **changes})
        self.restart()

    def restart(self) -> None:
        self.operator = Prompt(self.cluster, self, None, InferenceServices(self.cluster))  # type: ignore[arg-type]
        self.operator.leads = True
        self.operator._clock = lambda: self.now + self.put_forward
        self.operator._jumps = ClockJumps(lambda: self.now)

    def read(self, experiment: Experiment, since: float, now: float) -> Findings:
        return self.evidence()

    def patch(self, name: str = NAME, /, **fields: Any) -> None:
        self.cluster.patch(name, **fields)
        self.operator.changed(name)

    @property
    def status(self) -> dict[str, Any]:
        return self.cluster.status(NAME)

    def condition(self, kind: str) -> tuple[str, str, str]:
        (found,) = (one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def events(self) -> list[Event]:
        return [Event.model_validate(event) for event in self.status.get("history", ())]

    def serving(self, name: str = NAME) -> Experiment:
        found = self.cluster.entries(self.cluster.config_map)[name].experiment
        assert found is not None
        return found

    def served(self) -> list[str]:
        return [key for key in self.cluster.config_map["data"] if key.endswith(".yaml")]


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.operator.changed(NAME)
    return made


def begin(scene: Scene) -> None:
    scene.patch(move={"to": "shadow", "reason": "go"})


def edit(scene: Scene, old: str, new: str) -> None:
    data = scene.cluster.config_map["data"]
    assert old in data[f"{NAME}.yaml"]
    data[f"{NAME}.yaml"] = data[f"{NAME}.yaml"].replace(old, new)


Step = Callable[[Scene], Any]


def told(act: str, *arguments: str) -> Step:
    return lambda scene: getattr(scene.operator, act)(*arguments)


advance, watch, changed = told("advance"), told("watch"), told("changed", NAME)


def patch(name: str = NAME, /, **fields: Any) -> Step:
    return lambda scene: scene.patch(name, **fields)


def move(to: str, reason: str = "go", **more: Any) -> Step:
    return patch(move={"to": to, "reason": reason, **more})


def log(found: Findings | Exception) -> Step:
    """Return an action: from now on, reading the log returns or raises `found`."""

    def look() -> Findings:
        if isinstance(found, Exception):
            raise found
        return found

    return lambda scene: setattr(scene, "evidence", look)


def clock(hours: float, put_forward: float = 0.0) -> Step:
    def tick(scene: Scene) -> None:
        scene.now, scene.put_forward = hours * HOUR, put_forward * HOUR
        scene.operator.advance()

    return tick


def by_hand(old: str, new: str) -> Step:
    def edit_and_watch(scene: Scene) -> None:
        edit(scene, old, new)
        scene.operator.watch()

    return edit_and_watch


def heard(version: str = "") -> Step:
    """Return an action: a router reports a version of the experiment, by default the active one."""

    def ask(scene: Scene) -> None:
        scene.operator.routers.record_poll("one", {NAME: version or scene.serving().version})
        scene.operator.watch()

    return ask


def reply(reason: str) -> Step:
    return lambda scene: replied(scene, **{"mtorl-kubeflow/reason": reason})


def apply(name: str, **fields: Any) -> Step:
    def apply_and_hear(scene: Scene) -> None:
        scene.cluster.apply(name, {**SPEC, **fields})
        scene.operator.changed(name)

    return apply_and_hear


def replaced_from_a_file(scene: Scene) -> None:
    """Edit the ConfigMap as `kubectl replace` does, which loses the operator's annotations."""
    del scene.cluster.config_map["metadata"]["annotations"]
    edit(scene, "enabled: true", "enabled: false")


def delete_other(name: str) -> Step:
    def delete_and_hear(scene: Scene) -> None:
        scene.cluster.delete(name)
        scene.operator.changed(name)

    return delete_and_hear


def broken_key(scene: Scene) -> None:
    scene.cluster.config_map["data"][f"{NAME}.yaml"] = "half of it: ["


def check(scene: Scene, expected: dict[str, Any]) -> None:
    """Assert that the experiment has the expected state.

    A key of `expected` is a key of `found`. With the key "says", one message must contain the value.
    """
    status = scene.cluster.objects.get(NAME, {}).get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    found: dict[str, Callable[[], Any]] = {
        "phase": lambda: scene.status["phase"],
        "stage": lambda: scene.serving().stage,
        "enabled": lambda: scene.serving().enabled,
        "on": lambda: {
            key.removesuffix(".yaml"): scene.serving(key.removesuffix(".yaml")).enabled for key in scene.served()
        },
        "events": lambda: [event.to or event.kind for event in scene.events()],
        "last": lambda: scene.events()[-1].to or scene.events()[-1].kind,
        "incumbent": lambda: scene.serving().arm("incumbent").policy,
        "alpha": lambda: scene.serving().alpha,
        "served": lambda: sorted(scene.served()),
        "users": lambda: scene.status.get("users"),
        "shown": lambda: (view := scene.operator.views()[0])["verdict"] and view["looked"],
        "pages": lambda: [(view["phase"], view["problem"] is None) for view in scene.operator.views()],
        "in_force": lambda: scene.operator.views()[0]["in_force"],
        "version": lambda: scene.cluster.version_of("mtorl-incumbent"),
        "at": lambda: str(scene.serving().arm("incumbent").endpoint).split("-")[1],
        "digest": lambda: scene.serving().arm("incumbent").model_digest,
        "page": lambda: (scene.operator.views()[0]["settled"] or {}).get("done"),
        "advice": lambda: scene.operator.views()[0]["advice"]["condition"],
        "told": lambda: [reason for reason, _ in scene.cluster.said].count("Changed"),
        "command": lambda: (
            scene.condition("InForce")[2].partition("reason: ")[2] == scene.operator.views()[0]["advice"]["command"]
        ),
        **{kind: lambda kind=kind: conditions[kind]["reason"] for kind in conditions},
        **{name: lambda name=name: refusal(scene, name)["reason"] for name in ("second", "third")},
    }
    for name, value in expected.items():
        if name == "says":
            others = [refusal(scene, one) for one in ("second", "third") if one in scene.cluster.objects]
            assert any(value in one["message"] for one in (*conditions.values(), *others)), (value, conditions)
        else:
            assert found[name]() == value, name


def tell(scene: Scene, story: list[tuple[Step, dict[str, Any]]]) -> None:
    for act, expected in story:
        act(scene)
        check(scene, expected)


def refusal(scene: Scene, name: str) -> dict[str, Any]:
    return next(one for one in scene.cluster.status(name)["conditions"] if one["type"] == "Accepted")


LATE = Findings(VERDICT, traffic=TRAFFIC, newest=Newest(**{**NEWEST, "silence": "no decision has come for 40 minutes"}))
GO = {"to": "shadow", "reason": "me, too"}
BROKEN = {"metadata": {"name": "first", "creationTimestamp": "2025"}}


def budgets(campaign: str) -> list[dict[str, Any]]:
    return [{"campaign": campaign, "channel": "*", "amount": 100.0}]


STORIES: dict[str, list[tuple[Step, dict[str, Any]]]] = {
    "a move is handled once, although each write of the status is a change": [
        (move("promoted"), {"Accepted": "Refused", "says": NOT_BEGUN()}),
        (changed, {"Accepted": "Refused"}),
        (move("shadow"), {"Accepted": "Usable"}),
        (move("50%"), {"stage": "50%"}),
        (move("5%", "back"), {"stage": "5%"}),
        (changed, {}),
        (advance, {"events": ["shadow", "50%", "5%"]}),
        (move("sideways"), {"Accepted": "Refused"}),
    ],
    "an old move that is applied again is not repeated, except for a new salt": [
        (move("5%", "as in the file"), {"stage": "5%"}),
        (move("50%", "on"), {"stage": "50%"}),
        (move("5%", "as in the file"), {"stage": "50%", "Accepted": "Refused", "says": "another reason"}),
        (move("5%", "back, since it is slow"), {"stage": "5%"}),
        (patch(salt="another", move={"to": "50%", "reason": "on"}), {"stage": "50%"}),
    ],
    "an unreadable log moves nothing": [
        (move("shadow"), {}),
        (log(LogError("torn")), {}),
        (clock(100), {"Progressing": "LogUnreadable", "says": "torn", "phase": "shadow"}),
    ],
    "a brief jump of the clock moves nothing": [
        (move("shadow"), {}),
        (advance, {}),
        (clock(0, put_forward=1000), {"phase": "shadow"}),
        (clock(2), {"phase": "5%"}),
    ],
    "the condition names the requirements at once, before the next read of the log": [
        (move("shadow"), {"says": HOURS(found=0.0, needed=1.0, unit="hours", stage="shadow")}),
        (advance, {"says": "(the newest decision in the log is from 2026-11-28 09:30 UTC)"}),
        (log(LATE), {}),
        (advance, {"says": "from 2026-11-28 09:30 UTC, and none has arrived for a long time)"}),
        (move("stopped"), {"Progressing": "Over", "says": "stopped"}),
        (patch(salt="next", move=None), {"Progressing": "Waiting", "says": DRAFT(stage="shadow")}),
    ],
    "a promotion waits until the log has been read": [
        (move("shadow"), {}),
        (move("promoted"), {"phase": "shadow", "Accepted": "Held"}),
        (advance, {}),
        (advance, {"phase": "promoted"}),
    ],
    "a promotion without evidence needs force, which a rollback may leave set": [
        (move("shadow"), {}),
        (log(Findings()), {}),
        (move("promoted"), {"Accepted": "Held"}),
        (advance, {}),
        (advance, {"Accepted": "Refused", "says": NOT_IN_LOG(challenger="challenger")}),
        (log(LogError("the log is torn")), {}),
        (advance, {}),
        (move("promoted", "once more"), {"Accepted": "Refused", "says": "torn", "phase": "shadow"}),
        (move("promoted", "an emergency", force=True), {"Accepted": "Usable", "phase": "promoted"}),
        (patch(salt="next", move={"to": "shadow", "reason": "again", "force": True}), {}),
        (patch(move={"to": "rolled back", "reason": "harm", "force": True}, salt="a"), {"phase": "rolled back"}),
        (patch(salt="next", move={"to": "shadow", "reason": "again", "force": True}), {"says": messages.FORCE()}),
    ],
    "a rollback ends a promotion, even with an invalid spec; the kill switch does not": [
        (move("shadow"), {}),
        (advance, {}),
        (move("promoted"), {"incumbent": None}),
        (patch(enabled=False), {"Accepted": "Refused", "says": "rolled back", "incumbent": None}),
        (
            patch(alpha=7, move={"to": "rolled back", "reason": "calls"}),
            {"Accepted": "Unusable", "last": "rolled back", "incumbent": "baseline"},
        ),
    ],
    "an invalid spec changes nothing, but its kill switch works": [
        (move("shadow"), {}),
        (patch(arms=[]), {"Accepted": "Unusable"}),
        (advance, {"enabled": True, "events": ["shadow"]}),
        (patch(arms=SPEC["arms"], alpha=0.2), {"Accepted": "Unusable", "alpha": 0.05}),
        (patch(enabled=False), {"enabled": False}),
        (patch(alpha=SPEC["alpha"]), {"Accepted": "Usable", "enabled": False}),
        (patch(enabled=True), {"enabled": True, "stage": "shadow", "events": ["shadow", "kill", "resume"]}),
    ],
    "an edit that can't be reverted is in the condition": [
        (move("shadow"), {}),
        (patch(alpha=7), {"Accepted": "Unusable"}),
        (by_hand("\nstage: shadow", "\nstage: 50%"), {"InForce": "Behind"}),
        (watch, {"InForce": "EditedByHand", "says": "stage 50%, switched on"}),
        (by_hand("\nstage: 50%", "\nstage: half"), {"says": "can't be read"}),
        (patch(alpha=SPEC["alpha"]), {"stage": "shadow", "InForce": "Behind"}),
    ],
    "a kill in the ConfigMap lasts until a reply; any other edit is reverted": [
        (move("shadow"), {}),
        (heard(), {"InForce": "EveryRouter"}),
        (by_hand("enabled: true", "enabled: false"), {"enabled": False, "last": "kill", "InForce": "Behind"}),
        (heard(), {"InForce": "OffByHand", "Accepted": "Usable", "command": True, "in_force": True}),
        (clock(1), {"enabled": False, "says": KILL_SWITCH_ON()}),
        (patch(owner="somebody else"), {"enabled": False}),
        (Scene.restart, {}),
        (clock(2), {"enabled": False}),
        (lambda scene: scene.cluster.kept["configmaps"].clear(), {}),
        (advance, {"enabled": False, "phase": "shadow"}),
        (reply("clicks are back"), {"enabled": True, "last": "resume"}),
        (heard(), {"InForce": "EveryRouter"}),
        (by_hand("enabled: true", "enabled: false"), {"enabled": False}),
        # The reply answers an earlier message, so it must not switch the experiment on.
        (reply("clicks are back"), {"enabled": False}),
        (patch(enabled=False), {"enabled": False}),
        (patch(enabled=True), {"enabled": True}),
        (by_hand("alpha: 0.05", "alpha: 0.01"), {"alpha": 0.05}),
    ],
    "a kill by kubectl replace is kept, and so is the layer's place": [
        (move("shadow"), {}),
        (replaced_from_a_file, {}),
        (apply("second", salt="other"), {"served": [f"{NAME}.yaml"]}),
        (advance, {"enabled": False, "last": "kill"}),
        (reply("mended"), {"enabled": True}),
    ],
    "a missed change is applied within a second, before routers have it": [
        (move("shadow"), {"in_force": False}),
        (watch, {"InForce": "NoRouter", "in_force": None}),
        (heard(), {"InForce": "EveryRouter", "in_force": True}),
        (heard("an older one"), {"InForce": "Behind", "in_force": False}),
        (lambda scene: scene.cluster.patch(NAME, enabled=False), {}),
        (watch, {"enabled": False, "last": "kill", "says": KILL_SWITCH_ON()}),
        (watch, {"InForce": "Behind"}),
    ],
    "a standby applies changes, too, and leaves the routers' versions to the leader": [
        (move("shadow"), {}),
        (lambda scene: setattr(scene.operator, "leads", False), {}),
        (lambda scene: scene.cluster.patch(NAME, enabled=False), {}),
        (watch, {"enabled": False, "last": "kill"}),
        (heard(), {"InForce": "Behind"}),
    ],
    "a deleted experiment ends and frees its place in the layer": [
        (move("shadow"), {}),
        (lambda scene: scene.cluster.delete(NAME), {}),
        (watch, {"enabled": False}),
        (apply("second", salt="other"), {"served": ["second.yaml"]}),
    ],
    "a deleted ConfigMap is restored for the experiment that has started": [
        (move("shadow"), {}),
        (lambda scene: scene.cluster.kept["configmaps"].clear(), {}),
        (apply("a-draft", salt="other"), {}),
        (advance, {"enabled": True, "served": [f"{NAME}.yaml"]}),
    ],
    "an experiment that can't be evaluated stops no other": [
        (move("shadow"), {}),
        (
            lambda scene: scene.cluster.objects.update(
                first={"metadata": {"name": "first", "creationTimestamp": "2025"}}
            ),
            {},
        ),
        (clock(2), {"phase": "5%"}),
    ],
    "the next operator shows a finished experiment with the time of its figures": [
        (move("shadow"), {}),
        (advance, {}),
        (move("stopped"), {}),
        (Scene.restart, {}),
        (clock(5), {}),
        (clock(9), {"users": 940, "shown": "1970-01-01T05:00:00+00:00"}),
    ],
    "a budget for an unknown channel is unusable": [
        (lambda scene: setattr(scene.operator, "_dataset", DATASET), {}),
        (patch(budgets=[{"campaign": "*", "channel": "TV", "amount": 1000}]), {"Accepted": "Unusable"}),
    ],
    "a second experiment waits for the end of the first and does not disturb it": [
        (move("shadow"), {"on": {NAME: True}}),
        (apply("second", salt="2", move=GO), {"second": "NotItsTurn", "on": {NAME: True}, "says": "nothing was"}),
        (changed, {"pages": [("shadow", True), ("draft", False)]}),
        (patch("second", enabled=False), {"enabled": True}),
        (patch("second", enabled=True), {}),
        (move("50%", "on"), {}),
        (advance, {}),
        (move("promoted"), {}),
        (advance, {"second": "Unusable", "says": "was promoted in"}),
        (move("rolled back"), {}),
        (advance, {"on": {"second": True}}),
    ],
    "experiments in separate parts of a layer are independent": [
        (patch(layer_part=[0.0, 0.5]), {}),
        (move("shadow"), {}),
        (apply("second", layer_part=[0.5, 1.0], move=GO), {"on": {NAME: True, "second": True}}),
        (heard(), {"InForce": "EveryRouter"}),
        (patch("second", enabled=False), {"on": {NAME: True, "second": False}}),
        (patch(layer_part=[0.0, 0.4]), {"Accepted": "Unusable"}),
        (apply("third", layer_part=[0.4, 0.6]), {"third": "NotItsTurn", "says": "overlap"}),
        (delete_other("second"), {"on": {NAME: True, "second": False}}),
        (patch("third"), {"third": "NotItsTurn"}),
    ],
    "a finished experiment's place is taken, and it does not return": [
        (patch(layer_part=[0.0, 0.5]), {}),
        (move("shadow"), {}),
        (apply("second", layer_part=[0.5, 1.0]), {}),
        (move("stopped"), {}),
        (apply("third", layer_part=[0.25, 0.5]), {"served": ["second.yaml", "third.yaml"]}),
        (advance, {"served": ["second.yaml", "third.yaml"]}),
    ],
    "an invalid key of a manually killed experiment is kept": [
        (patch(campaigns=["shoes"], budgets=budgets("shoes")), {}),
        (move("shadow"), {}),
        (by_hand("enabled: true", "enabled: false"), {"last": "kill"}),
        (broken_key, {}),
        (apply("second", salt="2", layer="other", campaigns=["hats"], budgets=budgets("hats")), {}),
        (advance, {"enabled": False, "served": [f"{NAME}.yaml", "second.yaml"]}),
    ],
    "the page shows the log's figures and the fault of the spec": [
        (move("shadow"), {}),
        (advance, {"pages": [("shadow", True)], "shown": "1970-01-01T00:00:00+00:00"}),
        (patch(alpha=7), {"pages": [("shadow", False)]}),
        (lambda scene: scene.cluster.delete(NAME), {"pages": []}),
    ],
    "an experiment without a ramp is a draft until it is started": [
        (patch(ramp=None, stage="25%"), {"enabled": False, "pages": [("draft", True)]}),
        (move("25%"), {"enabled": True, "pages": [("25%", True)]}),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_a_story(scene: Scene, story: str) -> None:
    tell(scene, STORIES[story])


def test_from_draft_to_a_promotion_and_back(scene: Scene) -> None:
    assert scene.status["phase"] == "draft" and not scene.serving().enabled
    begin(scene)
    for hours, stage in ((2, "5%"), (6, "50%")):
        scene.now = hours * HOUR
        scene.operator.advance()
        assert scene.status["phase"] == scene.serving().stage == stage
    assert {name: scene.status[name] for name in ("users", "lift", "interval", "spend", "verdict")} == {
        "users": 940, "lift": "+0.0056 (+3.1%)", "interval": "[-0.001, +0.0123]", "spend": "1135.53",
        "verdict": "inconclusive",
    }  # fmt: skip
    scene.patch(move={"to": "promoted", "reason": "it wins"})
    assert scene.serving().arm("incumbent").url == "http://127.0.0.1:8085/v1/models/challenger:predict"
    scene.patch(move={"to": "rolled back", "reason": "calls"})
    assert scene.serving().arm("incumbent").policy == "baseline"
    assert [reason for reason, _ in scene.cluster.said] == [
        "Shadow", "Stage5Percent", "Stage50Percent", "Promoted", "RolledBack",
    ]  # fmt: skip


def test_a_kill_records_the_reason_given_in_the_same_patch(scene: Scene) -> None:
    def switch(enabled: bool, reason: str | None = None, **fields: Any) -> str:
        if reason is not None:
            scene.cluster.objects[NAME]["metadata"]["annotations"] = {"mtorl-kubeflow/reason": reason, "other": "x"}
        scene.patch(enabled=enabled, **fields)
        return scene.events()[-1].reason

    begin(scene)
    off, on = "spec.enabled is false", "spec.enabled is true"
    for enabled, reason, expected in (
        (False, None, off),
        (True, " mended\n", "mended"),
        # The resume's reason does not apply to this kill.
        (False, None, off),
        (True, None, on),
        (False, "clicks are gone", "clicks are gone"),
        (True, None, on),
        # The object's earlier reason does not apply to this kill.
        (False, None, off),
        (True, "x" * 5_000, "x" * 1_000),
        (False, "  ", off),
        (True, None, on),
    ):
        assert switch(enabled, reason) == expected
    assert [words for reason, words in scene.cluster.said if reason == "Kill" and words.endswith("clicks are gone")]
    assert switch(False, "broken", alpha=7) == "broken" and not scene.serving().enabled


def test_spend_counts_all_decisions(scene: Scene) -> None:
    account = {"arm": "*", "channel": "*", "period": "total", "limit": 900.0, "reserved": 0.0}
    for campaigns, spend in ((["*"], "70.00"), (["hats", "shoes"], "140.00"), ([], "1135.53")):
        accounts: list[Any] = [{**account, "campaign": name, "spent": 70.0} for name in campaigns]
        accounts += [{**one, "channel": "video"} for one in accounts] + [{**one, "arm": "x"} for one in accounts]
        assert figures_of(VERDICT, accounts)["spend"] == spend


def test_a_resumed_stage_restarts_and_skipped_stages_are_named(scene: Scene) -> None:
    scene.patch(move={"to": "50%", "reason": "go"})
    (said,) = (words for reason, words in scene.cluster.said if reason == "Stage50Percent")
    assert "shadow, 5%" in said
    before, scene.now = scene.status["since"], HOUR
    scene.patch(enabled=False)
    scene.patch(enabled=True)
    assert scene.status["since"] > before


def replied(scene: Scene, **annotations: str) -> None:
    scene.cluster.objects[NAME]["metadata"]["annotations"] = annotations
    scene.cluster.patch(NAME, enabled=True)
    scene.operator.watch()


def test_a_manual_kill_is_not_lost_between_two_writes(scene: Scene) -> None:
    """The operator crashes after each number of requests since the manual kill."""
    begin(scene)
    edit(scene, "enabled: true", "enabled: false")
    scene.operator._step(NAME, {})
    for death in range(1, 12):
        scene.cluster.dies_after = scene.cluster.requests + death
        with contextlib.suppress(Killed):
            scene.operator.watch()
        scene.cluster.dies_after = None
        scene.restart()
        assert not scene.serving().enabled
    assert [event.kind for event in scene.events()].count("kill") == 1
    scene.operator.watch()
    assert not scene.serving().enabled and scene.status["enabled"] is False


def test_a_stale_state_does_not_replace_a_newer_one(scene: Scene) -> None:
    """A slow thread, or an operator that counted as dead, writes an old state after a kill."""
    begin(scene)
    old = ExperimentResource.read(scene.cluster, NAME)
    assert old is not None
    going_on = in_force(old.definition(), state_of(old.events(), old.definition()))
    scene.patch(enabled=False)
    with pytest.raises(Conflict):
        old.apply_experiment(going_on.replace(alpha=0.04))
    with pytest.raises(Conflict):
        old.append(next_event(old.events(), old.definition(), "move", at=0, by="ramp", reason="late", to="5%"))
    assert not scene.serving().enabled


def refuse_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the ConfigMap's next write fail with a conflict; returns the list of rejected ConfigMaps."""
    put, refused = scene.cluster.apply_config_map, []

    def put_later(config_map: Any) -> Any:
        if not refused:
            refused.append(config_map)
            raise Conflict("ConfigMap")
        return put(config_map)

    monkeypatch.setattr(scene.cluster, "apply_config_map", put_later)
    return refused


def test_an_event_is_reported_even_if_it_takes_effect_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a conflict, the second try finds the event in the history already."""
    refused = refuse_once(scene, monkeypatch)
    begin(scene)
    assert refused and scene.serving().stage == "shadow"
    assert [reason for reason, _ in scene.cluster.said] == ["Shadow"]
    refused.clear()
    scene.now = 2 * HOUR
    scene.operator.advance()
    assert refused and scene.serving().stage == "5%"
    assert [reason for reason, _ in scene.cluster.said] == ["Shadow", "Stage5Percent"]


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_key_without_an_object_is_removed(scene: Scene, enabled: str) -> None:
    begin(scene)
    data = scene.cluster.config_map["data"]
    data["a-copy.yaml"] = data[f"{NAME}.yaml"].replace("enabled: true", f"enabled: {enabled}")
    data["alone.yaml"] = data[f"{NAME}.yaml"].replace(f"name: {NAME}", "name: alone")
    scene.operator.watch()
    assert sorted(scene.served()) == ["alone.yaml", f"{NAME}.yaml"]
    assert scene.serving().enabled and not scene.serving("alone").enabled


def test_a_second_costs_two_requests_however_many_experiments_there_are(scene: Scene) -> None:
    for number in range(10):
        scene.cluster.apply(f"e{number}", {**SPEC, "salt": f"{number}", "layer_part": [number / 10, (number + 1) / 10]})
    scene.cluster.delete(NAME)
    scene.operator.changed(NAME)
    for _ in range(2):
        scene.operator.advance()
        scene.operator.watch()
    before = scene.cluster.requests
    scene.operator.watch()
    assert len(scene.served()) == 10 and scene.cluster.requests - before == 2


def test_routers_report_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, routers = [0.0], Routers()
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    assert routers.condition("spring", "a")[1:] == ("Unknown", messages.NO_ROUTER())
    routers.record_poll("one", {"spring": "a", "autumn": "x"})
    routers.record_poll("two", {"spring": "b", "autumn": "x"})
    assert routers.condition("spring", "a")[1:] == ("False", messages.BEHIND(routers="two"))
    assert routers.condition("autumn", "x")[1:] == ("True", messages.EVERY_ROUTER(routers="one, two"))
    routers.record_poll("two", {"spring": "a"})
    assert routers.condition("spring", "a")[1:] == ("True", messages.EVERY_ROUTER(routers="one, two"))
    assert routers.condition("autumn", "x")[1:] == ("False", messages.BEHIND(routers="two"))
    clock[0] = SILENT_SECONDS / 2
    routers.record_poll("one", {"spring": "a"})
    clock[0] = SILENT_SECONDS
    assert routers.condition("spring", "a").message == messages.EVERY_ROUTER(routers="one")


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_crashes_cause_no_repeated_or_illegal_move(seed: int) -> None:
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
        assert after[: len(before)] == before, "the history must only grow"
    assert kills >= 100
    asked = [event.reason for event in scene.events() if event.reason.startswith("at ")]
    assert len(set(asked)) == len(asked), "a request must not be carried out twice"
    scene.cluster.patch(NAME, alpha=0.05)
    scene.operator.changed(NAME)
    spec = {key: value for key, value in scene.cluster.objects[NAME]["spec"].items() if key != "move"}
    definition = Experiment.from_dict({"name": NAME, **spec})
    assert scene.serving() == in_force(definition, state_of(scene.events(), definition))


def test_a_restored_salt_has_its_own_figures(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a promotion is undone, the first salt is active again."""

    def read(experiment: Experiment, since: float, now: float) -> Findings:
        users = {"a": 500, "b": 3}[experiment.salt]
        evidence = Evidence("inconclusive", f"of {experiment.salt}", "challenger", (), ARMS)
        return Findings({**VERDICT, "users": 2 * users}, evidence, traffic=TRAFFIC, looked=now)

    monkeypatch.setattr(scene, "read", read)
    won = {"name": "incumbent", "weight": 0.5, "model_digest": "29f665"}
    arms = [{**won, "endpoint": "http://127.0.0.1:8085/v1/models/challenger:predict"}, SPEC["arms"][1]]
    for change, before, after in (
        (move("50%"), None, 1000),
        (move("promoted"), 1000, 1000),
        (patch(salt="b", arms=arms, move={"to": "50%", "reason": "the next one"}), None, 6),
        (patch(salt="a", move=None), None, 1000),
    ):
        change(scene)
        for users in (before, after):
            verdict = scene.operator.views()[0]["verdict"]
            assert (scene.status.get("users"), verdict and verdict["users"]) == (users, users)
            scene.operator.advance()
    assert scene.status["phase"] == "promoted"


def test_the_kill_switch_needs_no_history(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kubernetes object has at most 1.5 MB. A long history may fill it, but the kill switch must still work."""
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
    assert not scene.serving().enabled and scene.events()[-1].kind == "kill", "the missing event must be written later"


def test_the_kill_switch_needs_no_readable_spec(scene: Scene) -> None:
    begin(scene)
    edit(scene, "enabled: true", "enabled: true\nbudget_table: gone.csv")
    scene.patch(enabled=False, alpha=7)
    assert f"{NAME}.off" in scene.cluster.config_map["data"]
    scene.patch(alpha=SPEC["alpha"])
    assert not scene.serving().enabled and scene.events()[-1].kind == "kill"
    scene.patch(enabled=True)
    assert scene.serving().enabled and f"{NAME}.off" not in scene.cluster.config_map["data"]


def test_a_manual_off_key_is_a_kill_switch_that_stays_on(scene: Scene) -> None:
    begin(scene)
    for content in ("by hand", ""):
        assert scene.serving().enabled
        scene.cluster.config_map["data"][f"{NAME}.off"] = content
        for _ in range(2):
            scene.operator.watch()
            scene.operator.advance()
            assert not scene.serving().enabled and scene.status["enabled"] is False
        assert scene.events()[-1].kind == "kill"
        replied(scene, **{REASON: f"mended after {content!r}"})
        scene.operator.watch()


@pytest.mark.parametrize("content", [None, "", "{", "start: 2026-02-30", "alpha: 7"])
def test_a_corrupted_config_map_is_repaired(scene: Scene, content: str | None) -> None:
    begin(scene)
    before = scene.serving()
    for off in (False, True):
        scene.cluster.config_map.pop("data")
        if content is not None:
            scene.cluster.config_map["data"] = {f"{NAME}.yaml": content}
        scene.cluster.patch(NAME, enabled=not off)
        scene.operator.watch()
        assert scene.serving() == before.replace(enabled=not off)


def test_a_breach_counts_though_the_object_changes_while_the_log_is_read(scene: Scene) -> None:
    """Reading a log takes minutes, in which the routers' polls may change the object's status."""
    begin(scene)
    looks = 0

    def found() -> Findings:
        nonlocal looks
        looks += 1
        scene.operator.routers.record_poll(f"router {looks}", {NAME: scene.serving().version})
        scene.operator.watch()
        return Findings(VERDICT, Evidence("inconclusive", "", "challenger", ("cost is up",), ARMS))

    scene.evidence = found
    scene.operator.advance()
    assert scene.status["phase"] == "rolled back" and looks == 1


@pytest.mark.parametrize("ends", ["draft", "stopped"])
def test_a_finished_experiment_does_not_replace_its_successor(scene: Scene, ends: str) -> None:
    begin(scene)
    scene.patch(move={"to": "stopped", "reason": "no"})
    moves = [] if ends == "draft" else [{"to": to, "reason": to} for to in ("50%", ends)]
    for move in [None, *moves]:
        scene.cluster.apply("next", {**SPEC, "salt": "n", "move": move})
        scene.operator.changed("next")
    before = scene.cluster.config_map
    for _ in range(3):
        scene.operator.advance()
        scene.operator.watch()
    assert scene.served() == ["next.yaml"] and scene.cluster.config_map == before, "the ConfigMap must not change"
    scene.cluster.delete("next")
    scene.operator.advance()
    assert scene.served() == [f"{NAME}.yaml"], "the older one is active again once its successor is deleted"

import dataclasses
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment import messages
from mtorl.experiment.inference.verdict import Token
from mtorl.experiment.stage_machine import (
    OVER,
    STAGES,
    ArmEvidence,
    Evidence,
    Hold,
    Move,
    Phase,
    State,
    answering,
    consider,
    fixed_changes,
    fixed_fields,
    in_force,
    lacking,
    may_move,
    requirements,
)
from mtorl.runtime.message import Words
from tests.messages import assert_says, raises
from tests.mtorl.experiment.experiments import FILE, RAMP, made

HOUR = 3600.0
ZERO = messages.UNDECIDED(low=-1.0, high=1.0)
WELL = Evidence("inconclusive", ZERO, "challenger", (), dict.fromkeys(("incumbent", "challenger"), ArmEvidence(500)))
HARM = (messages.GUARDRAIL(metric="cost", lower=0.2, margin=0.1),)
SHADOW, SMALL, LAST = (State(phase=phase, since=0.0) for phase in ("shadow", "5%", "50%"))


def evidence(token: Token = "inconclusive", **changes: Any) -> Evidence:
    return dataclasses.replace(WELL, token=token, **changes)


def challenger(**figures: Any) -> Evidence:
    return evidence(arms={**WELL.arms, "challenger": ArmEvidence(500)._replace(**figures)})


def held(step: Move | Hold, words: Words | None = None, **values: Any) -> None:
    assert isinstance(step, Hold), step
    if words is not None:
        assert_says(step.reasons[0], words, **values)


def moved(step: Move | Hold) -> Move:
    assert isinstance(step, Move), step
    return step


def test_a_stage_grows_after_its_hours_and_with_enough_users() -> None:
    held(consider(made(), SHADOW, WELL, 0.5 * HOUR), messages.HOURS, found=0.5, needed=1, unit="hours", stage="shadow")
    few = challenger(users=9)
    held(consider(made(), SHADOW, few, 2 * HOUR), messages.USERS, found=9, needed=10, arm="challenger")
    assert moved(consider(made(), SHADOW, WELL, HOUR)).to == "5%"
    stages = [{"stage": "shadow", "hours": 0.02, "users": 10}, *RAMP["stages"][1:]]
    brief = made(ramp={"stages": stages})
    held(consider(brief, SHADOW, WELL, 30.0), messages.HOURS, found=0.5, needed=1.2, unit="minutes")
    held(consider(made(), SMALL, WELL, HOUR), messages.HOURS, found=1.0, needed=2, stage="5%")
    assert moved(consider(made(), SMALL, WELL, 2 * HOUR)).to == "50%"


def test_no_stage_grows_without_evidence() -> None:
    for state in (SHADOW, SMALL):
        held(consider(made(), state, None, 1e9))
        held(consider(made(), state, evidence(arms={}), 1e9))
    free = made(ramp={"stages": [{"stage": "shadow", "hours": 0, "users": 0}, {"stage": "50%"}]})
    held(consider(free, SHADOW, None, 1e9), messages.NO_EVIDENCE)


def test_in_shadow_no_users_of_the_incumbent_are_required() -> None:
    arms = {"incumbent": ArmEvidence(0), "challenger": ArmEvidence(10)}
    assert moved(consider(made(), SHADOW, evidence(arms=arms), HOUR)).to == "5%"


def test_a_challenger_that_fails_or_is_slow_does_not_grow() -> None:
    failing = consider(made(), SMALL, challenger(fallback_ratio=0.02), 1e9)
    held(failing, messages.FALLBACK_RATIO, arm="challenger", found=0.02, allowed=0.01)
    alike = {name: ArmEvidence(500, fallback_ratio=0.3) for name in WELL.arms}
    # All arms have the fault, so the challenger is not to blame.
    moved(consider(made(), SMALL, evidence(arms=alike), 1e9))
    arms = {"incumbent": ArmEvidence(500, 0.0, 0.010), "challenger": ArmEvidence(500, 0.0, 0.031)}
    slow = consider(made(), SMALL, evidence(arms=arms), 1e9)
    held(slow, messages.LATENCY, arm="challenger", found=pytest.approx(21), allowed=20)


def test_an_arm_with_weight_zero_does_not_hold_the_ramp() -> None:
    arms = [
        {"name": "incumbent", "weight": 0.5, "policy": "baseline"},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://127.0.0.1:1"},
        {"name": "rules", "weight": 0, "policy": "baseline"},
    ]
    assert moved(consider(made(arms=arms), SMALL, WELL, 1e9)).to == "50%"


def test_harm_ends_an_experiment_at_once_and_a_mismatch_holds_it() -> None:
    harm = evidence(breached=HARM)
    for state in (SMALL, LAST):
        assert moved(consider(made(), state, harm, 0.0)).to == "rolled back"
        assert moved(consider(made(), state, evidence("stop"), 0.0)).to == "stopped"
    void = evidence("srm", breached=HARM, reason=messages.SRM(p=0.0, alarm=0.01))
    held(consider(made(), LAST, void, 1e9), messages.SRM)


def test_a_person_promotes_a_winner_unless_the_ramp_may() -> None:
    held(consider(made(), LAST, evidence("ship"), 1e9), messages.WINS, challenger="challenger", verdict=ZERO)
    by_itself = made(ramp={**RAMP, "promote": True})
    win = Move("promoted", ZERO, "challenger")
    assert moved(consider(by_itself, LAST, evidence("ship"), 3 * HOUR)) == win
    held(consider(by_itself, LAST, evidence("ship"), HOUR), messages.HOURS, found=1.0, needed=3, stage="50%")
    assert moved(consider(by_itself, SMALL, evidence("ship"), 1e9)).to == "50%"  # no promotion at a small stage
    held(consider(by_itself, LAST, WELL, 1e9), messages.LAST_STAGE, verdict=ZERO)


def test_a_draft_waits_for_its_start() -> None:
    held(consider(made(), State(), None, 1e12), messages.DRAFT, stage="shadow")
    planned = made(start="2026-12-01T00:00:00Z")
    assert planned.start is not None
    early = consider(planned, State(), None, planned.start.timestamp() - 1)
    held(early, messages.STARTS_LATER, start="2026-12-01 00:00 UTC")
    assert moved(consider(planned, State(), None, planned.start.timestamp())).to == "shadow"


def test_a_futile_experiment_stops_only_at_the_last_stage() -> None:
    futile = evidence("futile", reason=messages.FUTILE(effect=5.0, low=-1.0, high=1.0))
    assert moved(consider(made(), SMALL, futile, 2 * HOUR)).to == "50%"
    assert moved(consider(made(), LAST, futile, 0.0)) == Move("stopped", futile.reason)


def test_an_experiment_without_a_verdict_stops_at_its_planned_end() -> None:
    planned = made(planned_end="2026-12-29T00:00:00Z")
    assert planned.planned_end is not None
    end = planned.planned_end.timestamp()
    stopped = moved(consider(planned, LAST, WELL, end))
    assert stopped.to == "stopped"
    assert_says(stopped.reason, messages.PLANNED_END, verdict=ZERO)
    assert moved(consider(planned, SMALL, None, end)).to == "stopped"
    held(consider(planned, LAST, evidence("ship"), end), messages.WINS)


def test_a_stage_outside_the_ramp_waits_for_a_person() -> None:
    # The ramp must not move on from a stage that a person chose outside the ramp.
    state = State(phase="25%", since=0.0)
    held(consider(made(), state, WELL, 1e9), messages.STAGE_NOT_IN_RAMP, stage="25%")
    assert moved(consider(made(), state, evidence(breached=HARM), 0.0)).to == "rolled back"
    smaller = made(ramp={"stages": RAMP["stages"][:2], "promote": True})
    assert moved(consider(smaller, LAST, evidence("ship"), 0.0)).to == "promoted"


@given(
    phase=st.sampled_from(get_args(Phase)),
    killed=st.booleans(),
    enabled=st.booleans(),
    token=st.sampled_from(get_args(Token)),
    harm=st.booleans(),
    users=st.integers(0, 100),
    fallback_ratio=st.floats(0, 1),
    now=st.floats(0, 2e9),
    promote=st.booleans(),
)
def test_for_any_evidence_only_allowed_moves_are_made(
    phase: Phase, killed: bool, enabled: bool, token: Token, harm: bool, users: int, fallback_ratio: float,
    now: float, promote: bool,
) -> None:  # fmt: skip
    experiment = made(enabled=enabled, ramp={**RAMP, "promote": promote}, start="2026-12-01T00:00:00Z")
    state = State(phase=phase, since=None if phase == "draft" else 0.0, killed=killed)
    arms = {"incumbent": ArmEvidence(users), "challenger": ArmEvidence(users, fallback_ratio, math.nan)}
    step = consider(experiment, state, evidence(token, breached=HARM if harm else (), arms=arms), now)
    if isinstance(step, Hold):
        assert step.reasons
        return
    assert may_move(state, step.to, "ramp") is None
    assert enabled and not killed and phase not in OVER
    if step.to in STAGES and phase != "draft":
        assert phase in [stage["stage"] for stage in RAMP["stages"]]
        assert not harm and token not in ("srm", "stop") and fallback_ratio <= 0.01
        later = [stage["stage"] for stage in RAMP["stages"] if STAGES.index(stage["stage"]) > STAGES.index(phase)]
        assert step.to == later[0]
    if step.to == "promoted":
        assert promote and token == "ship" and phase == "50%" and not harm


def test_a_finished_phase_is_final_but_a_promotion_can_be_rolled_back() -> None:
    for phase in OVER:
        for to in get_args(Phase):
            allowed = may_move(State(phase=phase, since=0.0), to, "person") is None
            assert allowed == (phase == "promoted" and to == "rolled back")


def test_only_a_person_can_go_back_a_stage() -> None:
    assert may_move(LAST, "5%", "person") is None
    assert_says(may_move(LAST, "5%", "ramp"), messages.ONLY_PEOPLE_GO_BACK)
    assert_says(may_move(State(), "promoted", "person"), messages.NOT_BEGUN)
    assert_says(may_move(SMALL, "5%", "person"), messages.ALREADY_THERE, phase="5%")


def test_the_active_file_has_the_stage_switch_and_promoted_incumbent() -> None:
    for phase in get_args(Phase):
        serving = in_force(made(), State(phase=phase, since=0.0))
        assert serving.enabled == (phase in STAGES)
        assert serving.stage == (phase if phase in STAGES else "shadow")
    assert in_force(made(), dataclasses.replace(LAST, killed=True)).shares() == {"incumbent": 1.0, "challenger": 0.0}
    off = made(enabled=False)
    assert not in_force(off, LAST).enabled
    assert isinstance(consider(off, LAST, evidence("ship", breached=HARM), 1e9), Hold), "the ramp moved it"
    winner = answering(made().arm("challenger"))
    promoted = in_force(made(), State(phase="promoted", since=0.0, incumbent=winner))
    incumbent = promoted.arm("incumbent")
    assert incumbent.url == made().arm("challenger").url
    assert (incumbent.model_digest, incumbent.policy, incumbent.weight) == ("29f665", None, 0.5)
    assert in_force(made(), State(phase="rolled back", since=0.0)).arm("incumbent") == made().arm("incumbent")


def test_plans_do_not_change_the_version_of_an_experiment() -> None:
    planned = made(hypothesis="more clicks", start="2026-12-01T00:00:00Z", planned_end="2026-12-29T00:00:00Z")
    assert planned.version == made().version
    assert len({made(**one).version for one in ({}, {"alpha": 0.1}, {"owner": "another"})}) == 3
    assert in_force(made(), SMALL).version == made(stage="5%").version


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"owner": "somebody else", "planned_end": "2026-12-29T00:00:00Z", "overrides": {"qa": "challenger"}}, []),
        ({"alpha": 0.1, "min_runtime_hours": 1}, ["alpha", "min_runtime_hours"]),
        ({"arms": [FILE["arms"][0], {**FILE["arms"][1], "name": "other"}]}, ["arms: their names"]),
    ],
)
def test_measured_fields_are_fixed_once_an_experiment_has_begun(changes: dict[str, Any], named: list[str]) -> None:
    assert fixed_changes(fixed_fields(made()), made(**changes)) == named


@pytest.mark.parametrize(
    ("fields", "words", "values"),
    [
        ({"ramp": None}, messages.STAGE_OR_RAMP, {}),
        ({"ramp": {"stages": [{"stage": "5%"}, {"stage": "1%"}]}}, messages.STAGES_GROW, {"stages": "5%, 1%"}),
        ({"start": "2026-12-02T00:00:00Z", "planned_end": "2026-12-01T00:00:00Z"}, messages.PLANNED_END_EARLY, {}),
    ],
)
def test_an_inconsistent_ramp_is_refused(fields: dict[str, Any], words: Words, values: dict[str, str]) -> None:
    with raises(ValueError, words, **values):
        made(**fields)
    with pytest.raises(ValueError, match="a time with its zone"):
        made(start="2026-12-01")


def test_requirements_of_a_stage_are_reported_with_progress() -> None:
    experiment, state = made(), State("5%", since=0.0)
    arms = {"incumbent": ArmEvidence(40, 0.01, 0.010), "challenger": ArmEvidence(8, 0.03, 0.025)}
    evidence = dataclasses.replace(WELL, arms=arms)
    found = requirements(experiment, state, evidence, now=3600.0)
    assert [(one.kind, one.arm, one.met) for one in found] == [
        ("hours", None, False),
        ("users", "incumbent", True),
        ("users", "challenger", False),
        ("fallback_ratio", "challenger", False),
        ("latency_seconds", "challenger", True),
    ]
    assert [(one.found, one.needed) for one in found[:3]] == [(1.0, 2.0), (40, 20), (8, 20)]
    assert consider(experiment, state, evidence, 3600.0) == Hold(tuple(lacking(found)))
    assert requirements(experiment, State(), None, 0.0) == ()
    assert requirements(experiment, State("25%", since=0.0), None, 0.0) == ()

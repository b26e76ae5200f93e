"""Tests of an experiment's view, a JSON document with advice, state and next step."""

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import messages
from monitoring.experiments.document import Spend, View
from monitoring.experiments.findings import Findings
from monitoring.experiments.view import experiment_view
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.history import IllegalEvent, next_event
from mtorl.experiment.messages import GUARDRAILS_OPEN, LATENCY, NO_EVIDENCE, SHIP, SRM, STAGE_DONE, TOO_EARLY
from mtorl.experiment.stage_machine import ArmEvidence, Evidence
from mtorl.runtime.message import Message
from tests.messages import assert_says
from tests.monitoring.experiments import made_views as made


@pytest.mark.parametrize(
    ("state", "action", "condition", "code"),
    [
        ("draft", "start", "fine", messages.WAITS_FOR_START.code),
        ("shadow", "wait", "fine", messages.IN_SHADOW.code),
        ("early", "wait", "fine", TOO_EARLY.code),
        ("win", "promote", "fine", SHIP.code),
        ("rolled-back", "try again", "harm", ""),
        ("srm", "find out", "held", SRM.code),
        ("three-arms", "wait", "fine", GUARDRAILS_OPEN.code),
        ("late", "look", "held", LATENCY.code),
        ("killed", "resume or stop", "harm", ""),
        ("promoted", "nothing", "fine", ""),
    ],
)
def test_the_advice_of_each_state(state: str, action: str, condition: str, code: str) -> None:
    view = made.STATES[state]()
    said = view["advice"]
    assert (said["action"], said["condition"], said["code"]) == (action, condition, code)
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert view.keys() == get_type_hints(View).keys()


@pytest.mark.parametrize(
    ("spent", "hours", "code", "values"),
    [
        (969.22, 0.5, messages.MONEY_LOW.code, {"left": pytest.approx(30.78), "limit": 1_000.0}),
        # After half an hour, the spend per day is not known yet.
        (600.0, 0.5, None, {}),
        (600.0, 24.0, messages.MONEY_SHORT.code, {"left": 400.0, "lasts": 16.0}),
        (40.0, 24.0, None, {}),
    ],
)
def test_a_budget_that_will_not_last_is_reported_before_the_next_stage(
    spent: float, hours: float, code: str | None, values: dict[str, Any]
) -> None:
    """In shadow only the incumbent spends, but the advice must consider the next stage."""
    experiment = made.made()
    events = made.history(experiment, (0, "shadow", {"by": "person", "reason": "go"}))
    arms = {INCUMBENT: ArmEvidence(2000), "challenger": ArmEvidence(2000)}
    evidence = Evidence("inconclusive", NO_EVIDENCE(), "challenger", (), arms)
    whole = Spend(arm="*", campaign="*", channel="*", period="total", limit=1000.0, spent=spent, reserved=0.0)
    known = Findings(evidence=evidence, spend=[whole], commands=made.COMMANDS)
    advice = experiment_view(experiment, events, known, made.START + made.HOUR * hours)["advice"]
    if code is None:
        assert advice["action"] in ("wait", "run")
    else:
        assert (advice["action"], advice["condition"], advice["tone"]) == ("look", "fine", "alarm")
        assert (advice["code"], {name: advice["values"][name] for name in values}) == (code, values)


def test_a_past_time_is_never_the_next_step() -> None:
    experiment = made.made()
    events = made.history(experiment, (0, "shadow", {"by": "person", "reason": "go"}))
    arms = {INCUMBENT: ArmEvidence(2000), "challenger": ArmEvidence(500)}
    known = Findings(evidence=Evidence("inconclusive", NO_EVIDENCE(), "challenger", (), arms), commands=made.COMMANDS)
    early, late = (experiment_view(experiment, events, known, made.START + made.HOUR * at)["next"] for at in (12, 30))
    assert early["not_before"] is not None and (late["not_before"], late["expected"] is None) == (None, False)


PAST = "draft:past shadow:past 1%:past"
MOVES: dict[str, tuple[dict[str, Any], list[tuple[float, str]], str]] = {
    "draft": ({}, [], "draft:here shadow:ahead 1%:ahead 5%:ahead 50%:ahead promoted:ahead"),
    "ramp": ({}, [(0, "shadow"), (24, "1%"), (72, "5%")], f"{PAST} 5%:here 50%:ahead promoted:ahead"),
    # After the end, the stages that were not reached aren't listed.
    "rolled-back": ({}, [(0, "shadow"), (24, "1%"), (72, "rolled back")], f"{PAST} rolled back:here"),
    "stopped-early": ({}, [(0, "1%"), (1, "stopped")], "draft:past shadow:skipped 1%:past stopped:here"),
    "undone": (
        {},
        [(0, "50%"), (1, "promoted"), (2, "rolled back")],
        "draft:past shadow:skipped 1%:skipped 5%:skipped 50%:past promoted:past rolled back:here",
    ),
    "by-hand": ({"ramp": None, "stage": "5%"}, [], "5%:here"),
    "elsewhere": (
        {},
        [(0, "25%")],
        "draft:past shadow:skipped 1%:skipped 5%:skipped 25%:here 50%:ahead promoted:ahead",
    ),
    # A person moved the experiment from 1 % to 50 %, and then back to 5 %.
    "skipped": ({}, [(0, "shadow"), (24, "1%"), (30, "50%")], f"{PAST} 5%:skipped 50%:here promoted:ahead"),
    "back": ({}, [(0, "shadow"), (24, "1%"), (30, "50%"), (40, "5%")], f"{PAST} 5%:here 50%:ahead promoted:ahead"),
    "ended": (
        {},
        [(0, "shadow"), (24, "1%"), (30, "50%"), (40, "stopped")],
        f"{PAST} 5%:skipped 50%:past stopped:here",
    ),
}


@pytest.mark.parametrize(("changes", "moves", "steps"), MOVES.values(), ids=MOVES)
def test_steps_show_ramp_and_current_stage(changes: dict[str, Any], moves: list[tuple[float, str]], steps: str) -> None:
    experiment = made.made(**changes)
    who = {to: {"by": "person", "challenger": "challenger" if to == "promoted" else None} for _, to in moves}
    events = made.history(experiment, *((hours, to, who[to]) for hours, to in moves))
    view = made.view(experiment, events, 80.0)
    assert " ".join(f"{step['phase']}:{step['place']}" for step in view["steps"]) == steps
    assert all(step["since"] is None for step in view["steps"] if step["place"] == "skipped")


def test_missing_requests_need_attention_while_traffic_is_expected() -> None:
    advice = made.silent()["advice"]
    assert (advice["action"], advice["condition"], advice["tone"]) == ("look", "fine", "alarm")
    assert advice["code"] == messages.NOT_ASKED.code
    assert_says(advice["values"]["silence"], messages.SILENT, silence="50 minutes", since="2026-11-22 10:16")
    assert made.early()["advice"]["action"] == "wait"
    experiment = made.made()
    events = made.on_the_way(experiment, 3, (90, "stopped", {"by": "person"}))
    view = made.view(experiment, events, 96.0, newest=made.newest(96, 20_000.0, "no decision has come for 6 hours"))
    assert view["newest"] is not None and view["newest"]["silence"] is None and view["newest"]["age_seconds"] == 20_000


def test_the_next_step_has_an_expected_time() -> None:
    view = made.early()
    assert view["next"]["to"] == "50%" and view["next"]["not_before"] == "2026-11-24T11:06:40+00:00"
    needs = {(one["kind"], one["arm"]): (one["found"], one["needed"], one["met"]) for one in view["next"]["needs"]}
    assert needs["hours", None] == (24.0, 72.0, False)
    assert needs["users", "challenger"] == (101, 500, False)
    # 101 users came in 24 hours, so 500 users are expected after 119 hours.
    assert view["next"]["expected"] == "2026-11-26T09:55:22+00:00"
    assert made.mismatch()["next"]["to"] is None and made.killed()["next"]["needs"] == []
    counted = made.win()["next"]["needs"][-1]
    assert (counted["kind"], counted["found"]) == ("counted_hours", 312.0)
    assert (counted["needed"], counted["met"]) == (168.0, True)


def test_a_due_move_without_a_running_ramp_is_reported() -> None:
    experiment = made.made()
    users = {INCUMBENT: 9000, "challenger": 900}
    view = made.view(experiment, made.history(experiment, (0, "5%", {"by": "person"})), 80.0,
                     made.verdict("inconclusive", made.TOO_FEW, users, 0.0, "5%"), users)  # fmt: skip
    assert view["advice"]["action"] == "run" and view["next"]["to"] == "50%"
    assert view["advice"]["code"] == STAGE_DONE.code and view["advice"]["command"] == made.COMMANDS["run"]


def test_a_draft_with_a_start_time_starts_without_a_command() -> None:
    view = made.view(made.made(start="2026-12-01T09:00:00+01:00"), [], 0.0)
    assert view["advice"]["action"] == "wait" and view["next"]["not_before"] == "2026-12-01T08:00:00+00:00"


def test_an_unreadable_log_is_reported_without_advice_from_it() -> None:
    experiment = made.made(planned_end="2026-11-19T00:00:00Z")
    view = made.view(experiment, made.history(experiment, (0, "5%", {"by": "person"})), 100.0, problem="no log there")
    assert (view["advice"]["action"], view["advice"]["condition"]) == ("mend", "held")
    assert view["next"]["waits"] == ["no log there"] and view["next"]["to"] is None


def test_the_document_contains_no_secret() -> None:
    said = json.dumps(made.win())
    assert "user:secret" not in said and "127.0.0.1:8085" in said
    salted = made.view(made.made(salt="do-not-tell"), [], 0.0)
    assert "do-not-tell" not in json.dumps(salted)


def test_events_of_another_salt_are_not_shown() -> None:
    before = made.made(salt="first")
    events = made.history(before, (0, "5%", {"by": "person"}), (5, "stopped", {"by": "person"}))
    view = made.view(made.made(salt="second"), events, 10.0)
    assert view["phase"] == "draft" and view["events"] == []


TOKENS = st.sampled_from(["ship", "stop", "inconclusive", "srm", "guardrail"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["move", "kill", "resume"]),
              st.sampled_from(["shadow", "1%", "5%", "25%", "50%", "stopped", "rolled back", "promoted"])),
    max_size=6,
)  # fmt: skip


@given(STEPS, TOKENS, st.integers(0, 10_000), st.floats(0, 0.2), st.booleans(), st.booleans(), st.floats(0, 2000))
def test_any_history_gives_one_current_step_and_one_advice(
    steps: list[tuple[Any, Any]], token: Any, users: int, faults: float, ramp: bool, known: bool, hours: float
) -> None:
    experiment = made.made(**({} if ramp else {"ramp": None, "stage": "5%"}))
    events: list[Any] = []
    for n, (kind, to) in enumerate(steps):
        try:
            own = {"to": to if kind == "move" else None, "challenger": "challenger" if to == "promoted" else None}
            events.append(next_event(events, experiment, kind, at=made.START + n, by="person", reason="x", **own))
        except IllegalEvent:
            continue
    arms = {name: ArmEvidence(users, faults, 0.01) for name in (INCUMBENT, "challenger")}
    breached = (Message("a: worse"),) if token == "guardrail" else ()
    evidence = Evidence(token, Message("a reason"), "challenger", breached, arms)
    now = made.START + 3600 * hours
    view = experiment_view(experiment, events, Findings(evidence=evidence if known else None), now)
    assert [step["place"] for step in view["steps"]].count("here") == 1
    assert next(step for step in view["steps"] if step["place"] == "here")["phase"] == view["phase"]
    assert view["advice"]["headline"] and view["advice"]["reason"]
    assert len(view["events"]) == len(events)
    json.dumps(view, allow_nan=False)

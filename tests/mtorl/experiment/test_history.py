"""Tests that a history accepts only allowed events and survives a killed writer."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment import messages
from mtorl.experiment.history import (
    By,
    Event,
    HistoryError,
    IllegalEvent,
    Kind,
    newest_promotion,
    next_event,
    read_events,
    serves_since_before,
    state_of,
)
from mtorl.experiment.stage_machine import OVER, STAGES, Phase, State, answering, fixed_fields, in_force
from mtorl.runtime.message import Words
from tests.messages import raises
from tests.mtorl.experiment.experiments import FILE, after, made


def text(events: list[Event]) -> str:
    return "".join(event.line() for event in events)


def test_the_state_follows_from_the_events() -> None:
    assert state_of([], made()) == State()
    events = after("shadow", "kill", "resume")
    began = State("shadow", 0.0, False, 1, fixed=fixed_fields(made()))
    assert state_of(events[:1], made()) == began
    assert state_of(events[:2], made()) == replace(began, killed=True, events=2)
    assert state_of(events, made()) == replace(began, since=20.0, events=3)  # time while killed does not count
    promoted, back = after("50%", "promoted"), after("50%", "promoted", "rolled back")
    assert state_of(promoted, made()).incumbent == answering(made().arm("challenger"))
    assert state_of(back, made()).incumbent == answering(made().arm("incumbent"))


def test_a_promotion_is_active_until_rolled_back_or_in_the_file() -> None:
    promoted = after("50%", "promoted")
    found = serves_since_before(promoted, made(salt="b"))
    assert found is not None and found.incumbent == answering(made().arm("challenger"))
    assert serves_since_before(promoted, made()) is None
    assert serves_since_before(after("50%", "promoted", "rolled back"), made()) is None
    incumbent = {"name": "incumbent", "weight": 0.5, **answering(made().arm("challenger"))}
    challenger = {"name": "challenger", "weight": 0.5, "endpoint": "http://127.0.0.1:9"}
    assert serves_since_before(promoted, made(salt="b", arms=[incumbent, challenger])) is None


def test_a_new_salt_starts_a_new_experiment() -> None:
    events = after("50%")
    assert state_of(events, made(salt="b")) == State(events=1)
    other = made(salt="b")
    events.append(next_event(events, other, "move", at=1.0, by="person", reason="again", to="shadow"))
    assert state_of(events, other).phase == "shadow"
    assert state_of(events, made()).phase == "draft"


@pytest.mark.parametrize("end", OVER)
def test_a_finished_experiment_stays_finished_after_another_salt(end: Phase) -> None:
    events, other = after("50%", end), made(salt="b")
    events.append(next_event(events, other, "move", at=1.0, by="person", reason="again", to="shadow"))
    assert state_of(events, made()).phase == end
    with raises(IllegalEvent, messages.OVER, phase=end):
        next_event(events, made(), "move", at=2.0, by="person", reason="again", to="shadow")


@pytest.mark.parametrize(("given", "kept"), [("", "no reason given"), ("caf\udce9", "caf\\udce9")])
def test_any_reason_from_a_shell_can_be_read_back(given: str, kept: str) -> None:
    event = next_event([], made(), "kill", at=0.0, by="person", reason=given)
    assert read_events(event.line()) == [event]
    assert event.reason == kept


@pytest.mark.parametrize(
    ("happened", "kind", "to", "words"),
    [
        ((), "resume", None, messages.NOT_SWITCHED_OFF),
        (("kill",), "kill", None, messages.KILL_SWITCH_ON),
        (("stopped",), "kill", None, messages.OVER),
        (("50%", "promoted"), "kill", None, messages.PROMOTED),
        (("stopped",), "move", "5%", messages.OVER),
        (("50%",), "move", None, messages.NO_TARGET),
        ((), "kill", "promoted", messages.NO_TARGET),
        (("50%", "promoted"), "handed over", "rolled back", messages.NO_TARGET),
        (("50%",), "move", "promoted", messages.WHICH_CHALLENGER),
    ],
)
def test_illegal_events_are_refused(happened: Any, kind: Kind, to: Phase | None, words: Words) -> None:
    with raises(IllegalEvent, words):
        next_event(after(*happened), made(), kind, at=0.0, by="person", reason="a test", to=to)


def test_no_promotion_while_the_kill_switch_is_on() -> None:
    promotion: Any = {"at": 0.0, "by": "person", "reason": "a test", "to": "promoted", "challenger": "challenger"}
    for events, experiment in ((after("50%", "kill"), made()), (after("50%"), made(enabled=False))):
        with raises(IllegalEvent, messages.KILL_SWITCH_ON):
            next_event(events, experiment, "move", **promotion)


OWN_SERVERS = [{"name": name, "weight": 0.5, "endpoint": f"http://{name}"} for name in ("incumbent", "challenger")]
happenings = st.lists(
    st.tuples(
        st.sampled_from(get_args(Kind)),
        st.sampled_from((None, *get_args(Phase))),
        st.sampled_from(get_args(By)),
        st.sampled_from(("a", "b")),
        st.floats(-1e9, 2e9),
    ),
    max_size=30,
)


@given(happenings, st.sampled_from((FILE["arms"], OWN_SERVERS)))
def test_after_any_attempts_the_history_is_legal(tried: list[Any], arms: list[Any]) -> None:
    events: list[Event] = []
    for kind, to, by, salt, at in tried:
        experiment = made(salt=salt, arms=arms)
        before = state_of(events, experiment)
        try:
            event = next_event(events, experiment, kind, at=at, by=by, reason="a test", to=to, challenger="challenger")
        except IllegalEvent:
            assert state_of(events, experiment) == before
            continue
        events.append(event)
        now = state_of(events, experiment)
        assert now.events == len(events)
        if kind == "move":
            assert now.phase == to != before.phase
            assert before.phase not in OVER or (before.phase, to) == ("promoted", "rolled back")
            if by == "ramp" and before.phase in STAGES and to in STAGES:
                assert STAGES.index(to) > STAGES.index(before.phase)
        elif kind == "handed over":
            promotion = newest_promotion(events)
            assert promotion is not None and promotion.handed_over and not promotion.rolled_back
            if event.salt == experiment.salt:
                assert now.phase == before.phase == "promoted" and now.incumbent != before.incumbent
                assert in_force(experiment, now).arm("incumbent").url == experiment.arm("incumbent").url
            # An event of the previous experiment must not change the new one's state.
            else:
                assert replace(now, events=0) == replace(before, events=0)
        else:
            assert now.killed == (kind == "kill") != before.killed and now.phase == before.phase
    assert read_events(text(events)) == events


@given(st.integers(0, 3000))
def test_a_killed_writer_loses_only_the_unfinished_event(size: int) -> None:
    events = after("shadow", "kill", "resume", "5%")
    written = text(events)[:size]
    assert read_events(written) == events[: written.count("\n")]


def test_an_edited_history_is_refused() -> None:
    lines = [event.line() for event in after("shadow", "5%", "50%")]
    with raises(HistoryError, messages.EVENTS_MISSING, where="line", number=2, found=3):
        read_events(lines[0] + lines[2])
    with raises(HistoryError, messages.NO_EVENT, where="line", number=2):
        read_events(lines[0] + "rubbish\n" + lines[2])

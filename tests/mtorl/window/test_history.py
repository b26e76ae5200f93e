"""Tests that a decision's history is bit-identical offline and online."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtorl.window import history
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch
from tests.mtorl.window.small_journeys import (
    FITTED,
    GAP,
    HOUR,
    JOURNEY,
    SPEC,
    TIMED,
    content,
    journey,
    log_of,
    offline,
    online,
    same_inputs,
    static,
    steps_of,
    touchpoint,
    touchpoints,
)


@pytest.mark.parametrize("spec", [SPEC, TIMED], ids=["outcomes without a time", "outcomes with a time"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(train=st.lists(journey, min_size=1, max_size=4), test=st.lists(journey, min_size=1, max_size=3))
def test_offline_and_online_inputs_are_bit_identical(spec, train, test):
    encoder = Encoder.fit(offline(log_of(train), targets=True, spec=spec), spec)
    assert encoder.seen == spec.seen_outcomes
    rows = log_of(test)
    offline_x, offline_length = encoder.encode(offline(rows, spec=spec))
    online_x, online_length = encoder.encode(online(rows, spec=spec))
    assert offline_x.dtype == np.float32 and offline_x.shape == (len(rows), spec.window, encoder.dim)
    assert offline_length.tolist() == online_length.tolist()
    assert offline_x.tobytes() == online_x.tobytes()
    # A server may encode one window at a time, so the encoding of a row must not depend on other rows.
    alone = (encoder.encode(online([row], rows, spec))[0].tobytes() for row in rows)
    assert b"".join(alone) == offline_x.tobytes()
    backwards = WindowBatch.from_steps(steps_of(rows, spec), np.arange(len(rows))[::-1], spec)
    assert encoder.encode(backwards)[0][::-1].tobytes() == offline_x.tobytes()
    assert np.isfinite(offline_x).all()


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=3))
def test_the_history_is_the_newest_known_touchpoints_of_the_journey(journeys):
    """Compare the windows with a direct implementation of the definition."""
    rows = log_of(journeys)
    batch, instances = offline(rows, targets=True), online(rows)
    for i, now in enumerate(rows):
        known = [j for j in range(i) if rows[j]["user_id"] == now["user_id"] and rows[j]["known"] < now["timestamp"]]
        seen, later = [i], now["timestamp"]
        for j in known[::-1][: SPEC.window]:
            if later - rows[j]["timestamp"] > GAP:
                break
            seen, later = [j, *seen], rows[j]["timestamp"]
        own = seen if len(seen) <= SPEC.window else seen[1:]
        assert batch.targets.touchpoint_N[batch.row_N == i].tolist() == own
        assert batch.length_B[i] == instances.length_B[i] == len(own)
        before = [None] * (len(seen) <= SPEC.window) + [rows[j]["channel"] for j in seen[:-1]]
        code = [len(SPEC.channels) if name is None else SPEC.channels.index(name) for name in before]
        for windows in (batch, instances):
            assert windows.prev_channel_N[windows.row_N == i].tolist() == code


@settings(max_examples=150)
@given(static, st.lists(touchpoint, min_size=1, max_size=9), st.data())
def test_later_events_and_later_knowledge_change_no_input(features, seen, data):
    """Rows that are later than t or unknown at t are changed, removed and added."""
    rows = log_of([(features, seen)])
    times = {row["timestamp"] for row in rows}
    k = data.draw(st.integers(0, len(rows) - 1), label="the decision")
    now, changed = rows[k], []
    for row in rows:
        other = data.draw(st.fixed_dictionaries(content), label="another touchpoint")
        if row is now:
            changed.append({**row, **other, "hour": row["hour"], "device": row["device"]})  # context is known at t
        elif row["known"] < now["timestamp"]:
            changed.append(row)
        elif data.draw(st.booleans(), label="stays"):
            changed.append({**row, **other})
        at = row["timestamp"] + 1
        if at not in times and data.draw(st.booleans(), label="one more"):
            known = max(at, now["timestamp"]) + data.draw(st.sampled_from([1, HOUR, 9 * GAP]), label="known after")
            changed.append({**row, **other, "timestamp": at, "created_timestamp": known, "known": known})
    kept = next(i for i, row in enumerate(changed) if row["timestamp"] == now["timestamp"])
    changed_window = WindowBatch.from_steps(steps_of(changed), np.array([kept]), SPEC)
    assert same_inputs(changed_window, WindowBatch.from_steps(steps_of(rows), np.array([k]), SPEC))
    assert same_inputs(changed_window, online([changed[kept]], changed))


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=2))
def test_a_token_has_a_target_if_it_shows_what_its_decision_knew(journeys):
    rows = log_of(journeys)
    batch = offline(rows, targets=True)
    tokens = history.Timeline.of(steps_of(rows)).tokens(np.arange(len(rows)), SPEC.window, GAP)
    before = [[p for p in tokens.prev_N[batch.row_N == i].tolist() if p >= 0] for i in range(len(rows))]
    for i in range(len(rows)):
        valid = batch.targets.valid_N[batch.row_N == i]
        assert valid[-1]
        own, prev = batch.targets.touchpoint_N[batch.row_N == i].tolist(), tokens.prev_N[batch.row_N == i].tolist()
        assert prev[0] >= 0 or before[own[0]] == []
        for place, j in enumerate(own):
            inside = [p for p in prev[: place + 1] if p >= 0]
            assert valid[place] == (inside == before[j][len(before[j]) - len(inside) :])
    padded = FITTED.targets(batch)
    assert (padded["channel_BT"] >= 0).sum() == batch.targets.valid_N.sum()
    for name in ("reward_BT", "cost_BT"):
        assert (padded[name][padded["channel_BT"] < 0] == 0).all()


def test_a_late_touchpoint_is_unknown_until_it_arrives():
    first, second, third = touchpoints(3)
    rows = log_of([(JOURNEY[0], [first, {**second, "channel": "social", "late": HOUR + 1}, third, third, third])])
    batch = offline(rows, targets=True)
    windows = [batch.targets.touchpoint_N[batch.row_N == i].tolist() for i in range(5)]
    # The second touchpoint arrives after the third decision, so the third touchpoint has no target in the fourth
    # window.
    assert windows == [[0], [0, 1], [0, 2], [1, 2, 3], [2, 3, 4]]
    valid = [batch.targets.valid_N[batch.row_N == i].tolist() for i in range(5)]
    assert valid == [[True], [True, True], [True, True], [True, False, True], [False, True, True]]
    assert FITTED.targets(batch)["channel_BT"][3].tolist() == [1, -1, 0]


@pytest.mark.parametrize(("pause", "length"), [(GAP, 3), (GAP + 1, 1)])
def test_a_pause_longer_than_the_gap_begins_a_journey(pause, length):
    first, second, third = touchpoints(3)
    rows = log_of([(JOURNEY[0], [first, second, {**third, "pause": pause}])])
    assert offline(rows).length_B.tolist() == [1, 2, length]
    assert same_inputs(offline(rows), online(rows))
    rows = log_of([(JOURNEY[0], [first, {**second, "pause": pause}, third])])  # the pause is one touchpoint earlier
    assert offline(rows).length_B.tolist() == [1, min(2, length), max(2, length)]
    assert same_inputs(offline(rows), online(rows))


def test_chunks_change_nothing(monkeypatch):
    rows = log_of([(JOURNEY[0], touchpoints(9, late=2 * HOUR)), (JOURNEY[0], touchpoints(4))])
    whole = offline(rows, targets=True)
    monkeypatch.setattr(history, "CHUNK", 4)
    parts = offline(rows, targets=True)
    assert same_inputs(whole, parts)
    assert whole.targets.valid_N.tolist() == parts.targets.valid_N.tolist()


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=2))
def test_a_token_is_equal_in_every_window(journeys):
    rows = log_of(journeys)
    batch = offline(rows, targets=True, spec=TIMED)
    last_B = np.cumsum(batch.length_B) - 1
    inside = batch.targets.valid_N & (batch.prev_channel_N < len(TIMED.channels))
    for name in TIMED.timed:
        # Value in each touchpoint's own window, as a server sees it
        own_B = batch.prev_outcomes[name][last_B]
        assert batch.prev_outcomes[name][inside].tolist() == own_B[batch.targets.touchpoint_N[inside]].tolist()


@settings(max_examples=150)
@given(static, st.lists(touchpoint, min_size=1, max_size=9), st.data())
def test_outcomes_known_later_change_no_input(features, seen, data):
    rows = log_of([(features, seen)])
    changed = [dict(row) for row in rows]
    for i, row in enumerate(changed):
        # Until the next touchpoint is recorded, all decisions may see a touchpoint's outcomes.
        next_at = max((other["timestamp"] for other in rows[i + 1 :]), default=None)
        for name in TIMED.timed:
            known = row[f"{name}_time"]
            if known is None or next_at is None or known >= next_at:
                row[name] = data.draw(st.sampled_from([0, 1, 7]), label=f"another {name}")
                later = data.draw(st.sampled_from([0, 1, GAP]), label="known even later")
                row[f"{name}_time"] = None if next_at is None else next_at + later
    before, after = (WindowBatch.from_steps(steps_of(log, TIMED), None, TIMED) for log in (rows, changed))
    for name in TIMED.timed:
        assert before.prev_outcomes[name].tobytes() == after.prev_outcomes[name].tobytes()


def test_a_conversion_is_seen_from_the_first_decision_after_it_is_known():
    bought = {"conversion": 1, "revenue": 5.0, "revenue_after": 0}
    for after, seen in ((0, 1.0), (HOUR - 1, 1.0), (HOUR, 0.0), (HOUR + 1, 0.0), (None, 0.0)):
        first = touchpoints(1, **bought, conversion_after=after)
        rows = log_of([(JOURNEY[0], [*first, *touchpoints(2)])])
        batch = offline(rows, targets=True, spec=TIMED)
        # In later decisions' windows, the late conversion stays unseen at this token.
        conversions = [batch.prev_outcomes["conversion"][batch.row_N == i].tolist() for i in (1, 2)]
        assert conversions == [[0.0, seen], [0.0, seen, 0.0]]
        assert batch.prev_outcomes["revenue"][batch.row_N == 1].tolist() == [0.0, 5.0]
        assert batch.targets.outcomes["conversion"].tolist()[0] == 1.0, "the label contains the final outcome"

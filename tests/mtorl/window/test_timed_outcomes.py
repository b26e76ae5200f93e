"""Outcomes with a time of their own: a window shows one in the tokens that were decided on after it was known."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.window.window import WindowBatch
from tests.mtorl.window.small_journeys import (
    GAP,
    HOUR,
    JOURNEY,
    TIMED,
    journey,
    log_of,
    offline,
    static,
    steps_of,
    touchpoint,
    touchpoints,
)


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=2))
def test_a_token_looks_the_same_in_every_window(journeys):
    """What was learned at a token in the middle of a window is what a server sees at the end of one."""
    rows = log_of(journeys)
    batch = offline(rows, targets=True, spec=TIMED)
    last_B = np.cumsum(batch.length_B) - 1
    inside = batch.targets.valid_N & (batch.prev_channel_N < len(TIMED.channels))
    for name in TIMED.timed:
        own_B = batch.prev_outcomes[name][last_B]  # where the row is the window's own, as a server sees it
        assert batch.prev_outcomes[name][inside].tolist() == own_B[batch.targets.touchpoint_N[inside]].tolist()


@settings(max_examples=150)
@given(static, st.lists(touchpoint, min_size=1, max_size=9), st.data())
def test_what_becomes_known_later_moves_no_input(features, seen, data):
    """Rewrite each outcome that was not known when the token behind it was decided on: the windows stay."""
    rows = log_of([(features, seen)])
    changed = [dict(row) for row in rows]
    for i, row in enumerate(changed):
        # As long as nothing later was recorded, a touchpoint stands in front of later ones.
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
        # It stays unseen in that token when later ones are decided on, as it was when the model learned from it.
        assert [batch.prev_outcomes["conversion"][batch.row_N == i].tolist() for i in (1, 2)] == [
            [0.0, seen],
            [0.0, seen, 0.0],
        ]
        assert batch.prev_outcomes["revenue"][batch.row_N == 1].tolist() == [0.0, 5.0]
        assert batch.targets.outcomes["conversion"].tolist()[0] == 1.0, "the label is what came of it in the end"

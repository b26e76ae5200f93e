"""Branches of a window: those that a log would show, had the user's journey gone that way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtorl.window.branches import branches
from tests.mtorl.window.small_journeys import HOUR, SPEC, Row, log_of, offline, same_inputs, static, touchpoint

seen = touchpoint.map(lambda row: {**row, "late": None, "pause": 2 * HOUR})


def last_window(features: Row, touchpoints: list[Row]):
    windows = offline(log_of([(features, touchpoints)]))
    return windows.take(np.array([len(windows) - 1]))


@given(
    features=static,
    before=st.lists(seen, max_size=4),
    now=seen,
    later=seen,
    branch=st.integers(0, 2 * len(SPEC.channels)),
    cost=st.floats(0, 10),
)
def test_a_branch_is_the_window_that_a_log_would_show(features, before, now, later, branch, cost) -> None:
    next_window = last_window({"age": "65+", "tenure": 1.0}, [now, later])
    hit = {"click": 1.0, "revenue": 2.5}
    made = branches(last_window(features, [*before, now]), np.full((1, 2), cost), next_window, hit, SPEC.window)
    if branch == 0:
        journey = [*before, {**later, "pause": now["pause"] + later["pause"]}]
    else:
        nothing = {"click": 0, "conversion": 0, "revenue": 0.0}
        outcomes = {**nothing, **(hit if branch > len(SPEC.channels) else {}), "cost": cost}
        channel = SPEC.channels[(branch - 1) % len(SPEC.channels)]
        journey = [*before, {**now, **outcomes, "channel": channel}, later]
    expected = last_window(features, journey)
    chosen = made.take(np.array([branch]))
    expected.time["hour_of_day"][-1] = chosen.time["hour_of_day"][-1]  # of the other user's opportunity
    assert same_inputs(chosen, expected)

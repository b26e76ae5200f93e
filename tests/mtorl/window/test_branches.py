"""Test that a window with a hypothetical touchpoint equals that of a log with this touchpoint."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtorl.window.branches import branches
from mtorl.window.encoder import Encoder
from tests.mtorl.window.small_journeys import HOUR, SPEC, Row, log_of, offline, static, touchpoint

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
def test_a_branch_equals_the_window_of_such_a_log(features, before, now, later, branch, cost) -> None:
    next_window = last_window({"age": "65+", "tenure": 1.0}, [now, later])
    hit = {"click": 1.0, "revenue": 2.5}
    made = branches(last_window(features, [*before, now]), np.full((1, 2), cost), next_window, hit)
    if branch == 0:
        journey = [*before, {**later, "pause": now["pause"] + later["pause"]}]
    else:
        nothing = {"click": 0, "conversion": 0, "revenue": 0.0}
        outcomes = {**nothing, **(hit if branch > len(SPEC.channels) else {}), "cost": cost}
        channel = SPEC.channels[(branch - 1) % len(SPEC.channels)]
        journey = [*before, {**now, **outcomes, "channel": channel}, later]
    expected = last_window(features, journey)
    expected.time["hour_of_day"][-1] = made.time["hour_of_day"][branch]  # the hour of the other user's opportunity
    encoder = Encoder.fit(expected, SPEC)
    token_D = replace(encoder, window=len(made.prev_channel_N)).encode(made)[0][0, branch]
    assert np.array_equal(token_D, encoder.encode(expected)[0][0, expected.length_B[0] - 1])

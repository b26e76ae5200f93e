"""Names as people read them."""

from __future__ import annotations

import pytest

from monitoring import plain_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("click_per_decision", "Click per decision"),
        ("cost_per_decision", "Cost per decision"),
        ("exposure_ratio", "Exposure ratio"),
        ("action_auc", "Action AUC"),
        ("netMargin_per_decision", "netMargin per decision"),
        ("watch_time_per_cost", "watch_time per cost"),
    ],
)
def test_a_metric_of_an_own_outcome_keeps_its_name(name: str, words: str) -> None:
    assert plain_words.metric(name) == words

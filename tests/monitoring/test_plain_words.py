"""Names as people read them."""

import pytest

from monitoring import plain_words


@pytest.mark.parametrize(
    ("name", "unit", "words"),
    [
        ("click_per_decision", "clicks per decision", "clicks per decision"),
        ("cost_per_decision", "EUR per decision", "cost per decision, EUR"),
        ("gain_per_cost", "EUR per EUR", "gain per cost, EUR per EUR"),
        ("exposure_ratio", "ratio", "exposure ratio"),
        ("netMargin_per_decision", "netMargin per decision", "netMargin per decision"),
        ("watch_time_per_cost", "s of watch_time per EUR", "watch_time per cost, s of watch_time per EUR"),
    ],
)
def test_a_metric_is_named_as_people_call_it_with_its_unit(name: str, unit: str, words: str) -> None:
    assert plain_words.named(name, unit) == words

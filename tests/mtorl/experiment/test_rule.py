"""Tests of a policy that is a list of rows, of which the first matching row decides."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import mtorl.experiment.rule
from mtorl.experiment import messages
from mtorl.experiment.rule import Row, Rule, check, digest, first_fit
from mtorl.runtime.message import Words
from tests.messages import raises
from tests.serving.router_fixtures import SPEC

RULE: TypeAdapter[tuple[Row, ...]] = TypeAdapter(Rule)


def rule(*rows: dict[str, Any]) -> tuple[Row, ...]:
    return RULE.validate_python(list(rows))


TABLE = rule(
    {"when": {"device": "phone", "age": ["18-24", None]}, "channel": "video"},
    {"when": {"hour": [1, 2]}, "channel": "video", "expose": False},
    {"channel": "search"},
)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"device": "phone", "age": "18-24", "hour": 1.0}, 0),
        ({"device": "phone", "age": None, "hour": 1.0}, 0),
        ({"device": "phone", "age": "65+", "hour": 2.0}, 1),
        ({"device": "tv", "age": None, "hour": 3.0}, 2),
    ],
)
def test_the_first_matching_row_decides(values: dict[str, Any], place: int) -> None:
    assert first_fit(TABLE, values, SPEC.channels) is TABLE[place]


def test_a_row_with_an_unavailable_channel_does_not_match() -> None:
    phone = {"device": "phone", "age": None, "hour": 1.0}
    assert first_fit(TABLE, phone, ("search",)) is TABLE[2]
    assert first_fit(TABLE, {"device": "tv"}, ("video",)) is None


def test_the_manual_in_the_docstring_is_a_valid_rule() -> None:
    text = (mtorl.experiment.rule.__doc__ or "").split("\n\n")[1]
    rows = RULE.validate_python(yaml.safe_load(text)["policy"])
    assert rows[2].when == {"placement": (None,)} and not rows[2].expose and rows[0].when["age"] == ("18-24", "25-29")


@pytest.mark.parametrize(
    ("row", "where", "words", "values"),
    [
        ({"when": {"hour": 3}, "channel": "tv"}, "channel", messages.UNKNOWN_CHANNEL, {"channel": "tv"}),
        ({"when": {"colour": "red"}, "channel": "video"}, "when", messages.UNKNOWN_COLUMN, {"column": "colour"}),
        ({"when": {"hour": "noon"}, "channel": "video"}, "when.hour", messages.COLUMN_KIND, {"value": "'noon'"}),
        ({"when": {"age": [None, 3]}, "channel": "video"}, "when.age", messages.COLUMN_KIND, {"value": "3.0"}),
    ],
)
def test_an_unknown_channel_or_column_is_named(row: Any, where: str, words: Words, values: dict[str, str]) -> None:
    check(TABLE, SPEC)
    with raises(ValueError, words, **values) as refused:
        check(rule(row, {"channel": "search"}), SPEC)
    assert str(refused.value).startswith(f"policy[0].{where}: ")


ROWS = st.builds(dict, channel=st.sampled_from(["a", "b"]), expose=st.booleans(), when=st.just({"hour": 3}))


@given(st.lists(ROWS, max_size=2), st.booleans())
def test_the_digest_changes_with_every_field_of_the_rows(firsts: list[dict[str, Any]], expose: bool) -> None:
    rows = [*firsts, {"channel": "a", "expose": expose}]
    assert digest(rule(*rows)) == digest(rule(*rows)) != digest(rule({"when": {"hour": 4}, "channel": "a"}, *rows))
    for number, row in enumerate(rows):
        flipped = {**row, "expose": not row["expose"]}
        assert digest(rule(*rows)) != digest(rule(*rows[:number], flipped, *rows[number + 1 :]))

"""Numbers as people read them: nothing absent is an error, nothing small is shown as zero."""

from __future__ import annotations

import numpy as np

from mtorl.pages import words


def test_a_whole_number() -> None:
    assert words.count(1234.0) == "1,234" and words.count(np.int64(1234)) == "1,234"
    assert words.count(None) == words.count(True) == words.count("7") == words.count(float("inf")) == "—"


def test_a_number() -> None:
    assert words.number(1234.5) == "1,234" and words.number(-0.01234) == "−0.01234" and words.number(2.0) == "2"
    assert words.fixed(float("nan")) == "—" and words.fixed(-1.5, 1) == "−1.5"
    assert words.signed(0.02) == "+0.0200" and words.signed(None) == "—"


def test_a_share() -> None:
    assert words.share(0.123) == "12.3%" and words.share(0.0123, 2) == "1.23%" and words.share(-0.292) == "−29.2%"
    assert words.share(0.0042) == "0.42%" and words.share(0.00001) == "< 0.01%" and words.share(0.0) == "0.0%"
    assert words.share(0.01, 0) == "1%" and words.share(None) == "—"


def test_an_interval() -> None:
    assert words.interval([-1, 2], 1, plus=True) == "[−1.0, +2.0]" and words.interval((0.1, 0.2), 2) == "[0.10, 0.20]"
    assert words.interval([None, 1]) == words.interval(None) == "—"


def test_a_difference_without_an_interval_stands_alone() -> None:
    assert words.estimate(22.8, [1, 44], 1) == "+22.8 [+1.0, +44.0]"
    assert words.estimate(22.8, [None, None], 1) == words.estimate(22.8, None, 1) == "+22.8"


def test_a_p_value_and_a_duration() -> None:
    assert words.p_value(1e-9) == "< 0.0001" and words.p_value(0.03) == "0.0300" and words.p_value(None) == "—"
    assert words.duration(4.2) == "4 seconds" and words.duration(7300) == "2 hours" and words.duration(None) == "—"


def test_words() -> None:
    assert words.sentence("always-valid [-0.1, 2]") == "Always-valid [−0.1, 2]."
    assert words.sentence("challenger: it does harm", ["challenger"]) == "challenger: it does harm."
    assert words.sentence("challengers wait", ["challenger"]) == "Challengers wait."
    assert words.counted(1, "user", "users") == "1 user" and words.counted(2000, "user", "users") == "2,000 users"
    assert words.day("2024-05-01T10:00:00Z") == "2024-05-01"

import numpy as np
import pytest

from mtorl.pages import words


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        *((words.count(1234.0), "1,234"), (words.count(np.int64(1234)), "1,234")),
        *((words.count(absent), "—") for absent in (None, True, "7", float("inf"))),
        *((words.number(1234.5), "1,234"), (words.number(-0.01234), "−0.01234"), (words.number(2.0), "2")),
        *((words.fixed(float("nan")), "—"), (words.fixed(-1.5, 1), "−1.5"), (words.signed(0.02), "+0.0200")),
        *((words.share(0.123), "12.3%"), (words.share(0.0123, 2), "1.23%"), (words.share(-0.292), "−29.2%")),
        *((words.share(0.0042), "0.42%"), (words.share(0.00001), "< 0.01%"), (words.share(0.0), "0.0%")),
        *((words.interval([-1, 2], 1, plus=True), "[−1.0, +2.0]"), (words.interval((0.1, 0.2), 2), "[0.10, 0.20]")),
        *((words.interval([None, 1]), "—"), (words.interval(None), "—")),
        *((words.estimate(22.8, [1, 44], 1), "+22.8 [+1.0, +44.0]"), (words.estimate(22.8, [None, None], 1), "+22.8")),
        *((words.p_value(1e-9), "< 0.0001"), (words.p_value(0.03), "0.0300")),
        *((words.duration(4.2), "4 seconds"), (words.duration(7300), "2 hours")),
        (words.sentence("always-valid [-0.1, 2]"), "Always-valid [−0.1, 2]."),
        (words.sentence("challenger: it does harm", ["challenger"]), "challenger: it does harm."),
        *((words.counted(1, "user", "users"), "1 user"), (words.counted(2000, "user", "users"), "2,000 users")),
        (words.day("2024-05-01T10:00:00Z"), "2024-05-01"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected

from pathlib import Path

import pytest

from tests.waiting import eventually, until


def test_a_wait_returns_the_first_true_value_and_otherwise_explains_itself(tmp_path: Path) -> None:
    values = iter([None, 0, "found"])
    assert eventually(lambda: next(values)) == "found"
    with pytest.raises(AssertionError, match=r"not within 0 s: .*lambda: \[\](?s:.*)last: \[\]\na log"):
        eventually(lambda: [], 0, lambda: "a log")
    with pytest.raises(AssertionError, match=r"read_text(?s:.*)FileNotFoundError"):
        eventually((tmp_path / "missing").read_text, 0)
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)


async def test_a_wait_in_an_event_loop_has_a_limit() -> None:
    values = iter([False, True])
    await until(lambda: next(values))
    with pytest.raises(AssertionError, match="not within 0 s"):
        await until(lambda: False, 0)

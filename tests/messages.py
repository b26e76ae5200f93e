from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mtorl.runtime.message import Message, Words, plain


def assert_says(said: object, words: Words, /, **values: Any) -> None:
    """Assert that a message, or an exception's message, has the code of `words` and contains these values."""
    message = said.args[0] if isinstance(said, BaseException) else said
    assert isinstance(message, Message), f"no code: {message!r}"
    assert message.code == words.code, message
    for name, value in values.items():
        assert message.values[name] in (value, plain(value)), message  # `pytest.approx` has no plain form


@contextmanager
def raises(error: type[BaseException], words: Words, /, **values: Any) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Assert that the block raises `error` with the code of `words` and at least these values."""
    with pytest.raises(error) as caught:
        yield caught
    assert_says(caught.value, words, **values)

"""Runs each test on one thread. With several threads, such small models take twice as long."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits  # a part of scikit-learn


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield

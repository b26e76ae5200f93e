"""How many examples a property tries whose examples are slow."""

from hypothesis import settings


def examples(every_change: int, with_all: int) -> int:
    """The one number in `make test`, the other one in `make test-all`: tests/conftest.py sets which profile it is."""
    return with_all if settings.default is not None and settings.default.max_examples >= 100 else every_change

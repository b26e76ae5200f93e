"""Sets the number of examples for property tests in which one example takes long."""

from hypothesis import settings


def examples(every_change: int, with_all: int) -> int:
    """Return the number of examples of a property test.

    It is `every_change` in `make test` and `with_all` in `make test-all`. tests/conftest.py sets the profile.
    """
    return with_all if settings.default is not None and settings.default.max_examples >= 100 else every_change

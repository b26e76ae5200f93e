"""Sets the number of examples for property tests in which one example takes long."""

from hypothesis import settings


def examples(every_change: int, with_all: int) -> int:
    """Return how many examples a property test should try.

    These are `every_change` examples in `make test`, and `with_all` examples in `make test-all`.
    """
    return with_all if settings.default is not None and settings.default.max_examples >= 100 else every_change

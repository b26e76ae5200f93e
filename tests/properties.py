from hypothesis import settings


def examples(every_change: int, with_all: int) -> int:
    """Return how many examples to try: `every_change` in `make test`, `with_all` in `make test-all`."""
    return with_all if settings.default is not None and settings.default.max_examples >= 100 else every_change

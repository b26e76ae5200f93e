"""Makes SQLite read times with the right converter, even if IPython is installed."""

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def read_times_by(convert: Callable[[bytes], Any]) -> None:
    """Register `convert` as the function that reads SQLite columns of type `timestamp`.

    IPython registers its own converter when it is imported, so this function imports IPython first.
    """
    # If IPython is missing or broken, DuckDB can't import it either.
    with suppress(Exception):
        importlib.import_module("IPython.core.history")
    sqlite3.register_converter("timestamp", convert)

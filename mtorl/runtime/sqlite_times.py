"""Makes SQLite read times with the right converter, even if IPython is installed."""

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def read_times_by(convert: Callable[[bytes], Any]) -> None:
    """Register `convert` as the function that reads SQLite columns of type `timestamp`.

    SQLite has only one such function per process, and IPython registers its own when it is imported, for example by
    DuckDB. IPython's function fails on times that other libraries have written. So this function imports IPython first,
    and registers `convert` afterwards.
    """
    # The import fails if IPython is missing or broken. That is no problem, because DuckDB then can't import it either.
    with suppress(Exception):
        importlib.import_module("IPython.core.history")
    sqlite3.register_converter("timestamp", convert)

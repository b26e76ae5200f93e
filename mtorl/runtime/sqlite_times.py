"""Makes SQLite read times with the right converter, even if IPython is installed."""

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def read_times_by(convert: Callable[[bytes], Any]) -> None:
    """Register `convert` as the function that reads SQLite columns of type `timestamp`.

    `convert` belongs to the library that wrote the times. SQLite has only one converter in a process, and IPython
    replaces it when it is imported, which DuckDB does if IPython is installed. IPython's converter can't read the times
    of other libraries. Therefore this function imports IPython first, and registers `convert` afterwards.
    """
    # If IPython is missing or broken, the import fails. DuckDB can't import it later either.
    with suppress(Exception):
        importlib.import_module("IPython.core.history")
    sqlite3.register_converter("timestamp", convert)

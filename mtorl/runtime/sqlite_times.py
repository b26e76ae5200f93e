"""Times that a library has written to SQLite stay readable where IPython is installed, too."""

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def read_times_by(convert: Callable[[bytes], Any]) -> None:
    """Read SQLite's times (columns of type `timestamp`) here by the converter of the library that wrote them.

    Converters are global to a process. IPython, which DuckDB imports where it is installed, sets one of its own: stores
    with other times can't be read from then on. So IPython comes first here.
    """
    with suppress(Exception):  # it is not installed, or broken: either way nothing here needs it
        importlib.import_module("IPython.core.history")
    sqlite3.register_converter("timestamp", convert)

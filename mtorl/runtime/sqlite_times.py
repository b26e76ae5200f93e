"""Keeps times that a library wrote to SQLite readable when IPython is installed."""

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def read_times_by(convert: Callable[[bytes], Any]) -> None:
    """Read SQLite columns of type `timestamp` with `convert`, the converter of the library that wrote them.

    Converters are global to a process. DuckDB imports IPython if it is installed, and IPython sets a converter of its
    own, which can't read the times of other libraries. So this function imports IPython first, then sets `convert`.
    """
    with suppress(Exception):  # IPython is not installed, or broken, so DuckDB can't import it either
        importlib.import_module("IPython.core.history")
    sqlite3.register_converter("timestamp", convert)

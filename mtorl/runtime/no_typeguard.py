"""Switches off typeguard's checks of Feast's code, if it is imported before Feast.

Feast decorates whole classes with typeguard's `typechecked`, which recompiles a module for each class in it. That takes
half of the CPU time of importing Feast (2.2 of 4.5 s) and slows each call. This module makes the decorator do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

with contextlib.suppress(ImportError):  # Feast, and so typeguard, is not installed
    import typeguard

    def _unchecked(target: Any = None, **_: Any) -> Any:
        same: Callable[[Any], Any] = lambda target: target  # noqa: E731
        return same if target is None else target

    typeguard.typechecked = _unchecked

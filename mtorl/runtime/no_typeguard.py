"""Switches off the type checks of the package typeguard in Feast. Import this module before Feast.

Feast decorates whole classes with typeguard's `typechecked`, which compiles the module again for each of its classes.
That takes half of the time of importing Feast (2.2 of 4.5 s of CPU time) and slows down each call. This module replaces
the decorator by a function that does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

with contextlib.suppress(ImportError):  # neither Feast nor typeguard is installed
    import typeguard

    def _unchecked(target: Any = None, **_: Any) -> Any:
        same: Callable[[Any], Any] = lambda target: target  # noqa: E731
        return same if target is None else target

    typeguard.typechecked = _unchecked

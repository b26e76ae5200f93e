"""Switches off typeguard's type checks in Feast. Import this module before Feast.

With the checks, importing Feast takes twice as long, and each call is slower.
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

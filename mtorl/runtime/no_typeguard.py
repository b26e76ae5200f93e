"""Import Feast without typeguard's checks of its own code: `import mtorl.runtime.no_typeguard` before the first import.

Feast decorates whole classes with typeguard's `typechecked`, which compiles their modules anew for each class. That is
half of the CPU time of importing Feast (2.2 of 4.5 s), and slows each call. Here the decorator does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

with contextlib.suppress(ImportError):  # where there is no Feast
    import typeguard

    def _unchecked(target: Any = None, **_: Any) -> Any:
        same: Callable[[Any], Any] = lambda target: target  # noqa: E731
        return same if target is None else target

    typeguard.typechecked = _unchecked

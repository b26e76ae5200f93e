"""A use of a published version, in words that people read when it may not be removed."""

from __future__ import annotations

from typing import NamedTuple


class Use(NamedTuple):
    """What needs a version."""

    name: str
    """ARM/NAME of the version, or its model's digest."""
    reason: str
    serves: bool = False
    """Whether it serves now."""

"""Detects a feature store that is empty or out of date: for a while no user is found.

A single unknown user is new, and the model decides for new users. Decisions go on in any case, for both arms alike;
health, a metric and the log report the fault.
"""

from __future__ import annotations

import logging
from time import monotonic

from serving.router.ops import metrics
from serving.router.ops.health import Health

log = logging.getLogger(__name__)

_MANY = 50  # decisions in a row without features: too many to be all new users
_SECONDS = 60.0  # in which none was found: a burst about one new user is no fault


class FoundFeatures:
    """Counts decisions by whether features were found; a count or two may be lost between threads."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._missed = 0  # decisions since the last one that found something
        self._last_found = monotonic()
        self._said = False

    def count(self, found: bool) -> None:
        """Count a decision."""
        metrics.FEATURES.labels("yes" if found else "no").inc()
        if found:
            self._missed, self._last_found = 0, monotonic()
            if self._said:
                self._said = False
                self._health.note("features")
            return
        self._missed += 1
        seconds = monotonic() - self._last_found
        if self._missed < _MANY or seconds < _SECONDS:
            return
        text = f"none found for {self._missed} decisions in {seconds:.0f} s: is the online store empty, or old?"
        self._health.note("features", text)
        if not self._said:
            self._said = True
            log.warning("features: %s", text)

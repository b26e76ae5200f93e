"""Answers the polls of routers, which ask every second whether an active experiment has changed.

    POST /v1/in-force {"router": "mtorl-router-0", "has": {"spring": "29f66512ab34cd56"}}
    200 {"spring.yaml": "<the experiment>"}
    204 nothing has changed
    503 the answer is unknown, so the router keeps its versions

The object's status shows which routers are up to date.
"""

import threading
import time
from collections.abc import Mapping

from mtorl.runtime.validation import StrictModel, Text
from pipelines import messages
from pipelines.experiments.operator.status import Condition

SILENT_SECONDS = 10.0
"""If a router has not polled for this number of seconds, the operator no longer waits for it: the router is gone, or
can't reach the operator."""


class Asked(StrictModel):
    """The body of a router's poll."""

    router: Text
    """Name of the router."""
    has: dict[str, str]
    """Version of each experiment that the router applies, by the experiment's name."""
    everything: bool = False
    """Whether the operator should send all experiments again, because the router could not apply a change."""


class Routers:
    """The versions of the experiments on the routers that have polled recently."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[float, Mapping[str, str]]] = {}

    def record_poll(self, router: str, versions: Mapping[str, str]) -> None:
        """Record which version of each experiment a router has."""
        with self._lock:
            self._heard[router] = time.monotonic(), versions

    def condition(self, experiment: str, version: str) -> Condition:
        """Build the condition InForce: whether every polling router has this version of the experiment."""
        with self._lock:
            now = time.monotonic()
            self._heard = {name: seen for name, seen in self._heard.items() if now - seen[0] < SILENT_SECONDS}
            heard = dict(self._heard)
        behind = sorted(name for name, (_, has) in heard.items() if has.get(experiment) != version)
        if not heard:
            return Condition("InForce", "Unknown", messages.NO_ROUTER())
        if behind:
            return Condition("InForce", "False", messages.BEHIND(routers=", ".join(behind)))
        return Condition("InForce", "True", messages.EVERY_ROUTER(routers=", ".join(sorted(heard))))

"""Answers polls of routers with the experiments in force. Each poll names the versions that the router has.

    POST /v1/in-force {"router": "mtorl-router-0", "has": {"spring": "29f66512ab34cd56"}}
    200 {"spring.yaml": "<the experiment>"}
    204 nothing has changed
    503 unknown: go on with the present versions

A router polls every second. So the kill switch reaches each replica within seconds, and the object's status shows
which replicas have it.
"""

import threading
import time
from collections.abc import Mapping

from mtorl.runtime.validation import StrictModel, Text
from pipelines import messages
from pipelines.experiments.operator.status import Condition

SILENT_SECONDS = 10.0
"""A router that has not polled for that long is gone, or can't reach the operator: no status waits for it."""


class Asked(StrictModel):
    """A poll."""

    router: Text
    """Its name."""
    has: dict[str, str]
    """Version of each experiment that it has."""
    everything: bool = False
    """Whether it requests all experiments, since it has got a change that it can't use."""


class Routers:
    """Routers that have polled lately, and the versions that they had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[float, Mapping[str, str]]] = {}

    def record_poll(self, router: str, versions: Mapping[str, str]) -> None:
        """Keep which version of each experiment a router has."""
        with self._lock:
            self._heard[router] = time.monotonic(), versions

    def condition(self, experiment: str, version: str) -> Condition:
        """Condition that every router has a version of an experiment."""
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

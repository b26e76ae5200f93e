"""Whether the arms of the experiments in force answer, also those that no traffic reaches.

Decisions tell of the arms that they ask. An arm that nobody asks (a challenger in the shadow, a host that a new
experiment file has mistyped) is asked here now and then, and at once when it is new or has moved. An arm that does not
answer leaves the experiment in force: its users get the default action. Health, a metric by arm and the log say for how
long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from mtorl.log.times import iso
from mtorl.window.window import instance_from_history
from serving.router.flow.arm_answers import ArmError
from serving.router.flow.arm_client import shown
from serving.router.flow.arm_faults import ArmFaults
from serving.router.flow.arms import Arms
from serving.router.ops import metrics
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import LiveExperiments

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0  # without an answer, good or bad, until an arm is asked
_TICK_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


class ArmWatch:
    """Looks after the arms. For one event loop.

    Args:
        live: The experiments in force.
        arms: Their client.
        spec: Description of the data set.
        health: Is told which arms answer.
        faults: What is known of an arm's answers.
    """

    def __init__(self, live: LiveExperiments, arms: Arms, spec: DatasetSpec, health: Health, faults: ArmFaults) -> None:
        self._live = live
        self._arms = arms
        self._health = health
        self._faults = faults
        self._urls: dict[str, str | None] = {}  # None: an arm that needs no server
        self._item = neutral_item(spec)

    async def run(self) -> None:
        """The background task."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Ask the arms of which nothing was heard lately. The first time this also opens connections for decisions."""
        arms = {one.key(arm.name): (one, arm) for one in self._live.experiments for arm in one.policies}
        urls = {name: arm.url for name, (_, arm) in arms.items()}
        for name in self._urls:
            if self._urls[name] != urls.get(name):
                self._health.forget(name)
                self._faults.forget(name)
                metrics.ARM_SILENT.labels(*metrics.arm_labels(name)).set(0)
        self._urls = urls
        due = [name for name, url in urls.items() if url and self._health.quiet(name) >= LOOK_SECONDS]
        await asyncio.gather(*(self._ask(*arms[name]) for name in due))
        for name, url in urls.items():
            fault = self._health.fault(name)
            metrics.ARM_SILENT.labels(*metrics.arm_labels(name)).set(fault.seconds if fault else 0.0)
            if fault and name in due:
                why = f"{type(fault.error).__name__}: {fault.error}"
                experiment, arm = arms[name]
                about = {"experiment": experiment.name, "arm": arm.name, "cause": type(fault.error).__name__}
                where = shown(url or "")
                log.warning("%s (%s) has not answered for %.0f s: %s", name, where, fault.seconds, why, extra=about)

    async def _ask(self, experiment: Experiment, arm: Arm) -> None:
        key = experiment.key(arm.name)
        try:
            (answer,) = await asyncio.to_thread(self._arms.ask, experiment, arm, [self._item], _PATIENCE_SECONDS)
        except Exception as error:
            self._health.report(key, error)
        else:
            self._health.report(key)
            if isinstance(answer, ArmError):
                about = {"experiment": experiment.name, "arm": arm.name, "cause": answer.cause}
                log.warning("arm %s: %s", key, answer, extra=about)


def neutral_item(spec: DatasetSpec) -> dict[str, Any]:
    """What an arm can be asked that concerns nobody: a user without history."""
    context = {column.name: 0.0 if column.kind == "numeric" else "warm-up" for column in spec.context}
    return {
        "window": instance_from_history({}, context, {}, spec, at=0),
        "u": 0.5,
        "user_id": "warm-up",
        "campaign_id": "warm-up",
        "timestamp": iso(0),
        "context": context,
        "candidates": list(spec.channels),
    }

"""Probes the arms that no traffic reaches: a challenger in the shadow, a host that an experiment file has mistyped.

An arm that is new or has moved is probed at once. If an arm does not answer, the experiment stays in force, and its
users get the default action; health, a metric by arm and the log say for how long.
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
from serving.router.flow.arms import Arms
from serving.router.ops import metrics
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import LiveExperiments

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0  # without an answer, good or bad, until an arm is probed
_TICK_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


class ArmWatch:
    """Probes arms; for one event loop."""

    def __init__(self, live: LiveExperiments, arms: Arms, spec: DatasetSpec, health: Health) -> None:
        self._live = live
        self._arms = arms
        self._health = health
        self._urls: dict[str, str | None] = {}  # None: an arm that needs no server
        self._item = neutral_item(spec)

    async def run(self) -> None:
        """The background task."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Probe the arms that have not answered lately. The first time this also opens connections for decisions."""
        arms = {one.key(arm.name): (one, arm) for one in self._live.experiments for arm in one.policies}
        urls = {name: arm.url for name, (_, arm) in arms.items()}
        for name in self._urls:
            if self._urls[name] != urls.get(name):
                self._health.forget(name)
                self._arms.faults.forget(name)
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
    """A question that concerns no user: one without history."""
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

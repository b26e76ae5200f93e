"""Stage `shadow`: asks challengers after the answer has gone out, and spends nothing.

Their decisions are records of another kind, with the incumbent's features, prices and draws. If challengers are slower
than the traffic, some decisions have no shadow, which is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mtorl.experiment.arm import INCUMBENT, Arm
from mtorl.log.records import VERSION, FallbackReason, ShadowRecord
from serving.decision_log import Spool
from serving.router.flow.arm_answers import ArmAnswer, ArmError
from serving.router.flow.arms import Arms
from serving.router.flow.pending_decision import PendingDecision
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health

MOST_WAITING = 256  # decisions; beyond that they have no shadow
_LARGEST = 32  # asked at a time
_SECONDS = 1.0  # for an arm, and for the log

log = logging.getLogger(__name__)


class Shadow:
    """Asks the challengers of an experiment in stage `shadow`; for one event loop."""

    def __init__(self, arms: Arms, spool: Spool, health: Health) -> None:
        self._arms = arms
        self._spool = spool
        self._health = health
        self._waiting: deque[PendingDecision] = deque()
        self._wake = asyncio.Event()

    def offer(self, decisions: Sequence[PendingDecision]) -> None:
        """Add decisions that were just taken; returns at once."""
        for decision in decisions:
            if not decision.experiment.enabled or decision.experiment.stage != "shadow":
                continue
            if decision.arm != INCUMBENT or decision.override:
                continue
            if len(self._waiting) >= MOST_WAITING:
                for arm in _challengers(decision):
                    metrics.SHADOW.labels(decision.experiment.name, arm.name, "dropped").inc()
                continue
            self._waiting.append(decision)
            self._wake.set()

    async def run(self) -> None:
        """The background task."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                first = self._waiting[0].experiment
                batch: list[PendingDecision] = []
                while self._waiting and len(batch) < _LARGEST and self._waiting[0].experiment is first:
                    batch.append(self._waiting.popleft())
                await asyncio.gather(*(self._ask(arm, batch) for arm in _challengers(batch[0])))

    async def _ask(self, arm: Arm, decisions: Sequence[PendingDecision]) -> None:
        shadows = [replace(decision, arm=arm.name, answer=None, exploration=None, fault=None) for decision in decisions]
        try:
            records = await self._records(arm, shadows)
            async with asyncio.timeout(_SECONDS):
                await asyncio.wrap_future(self._spool.submit("shadow", *records))
        except Exception as error:
            about = shadows[0].ids(type(error).__name__)
            log.warning("%d decisions have no shadow, %s: %s", len(shadows), about["cause"], error, extra=about)
            metrics.SHADOW.labels(shadows[0].experiment.name, arm.name, "dropped").inc(len(shadows))
            return
        for record in records:
            metrics.SHADOW.labels(record["experiment"], arm.name, "failed" if record["fault"] else "answered").inc()

    async def _records(self, arm: Arm, shadows: Sequence[PendingDecision]) -> list[ShadowRecord]:
        answers: dict[int, ArmAnswer | ArmError] = {}
        # An endpoint needs the window; a policy of the file reports itself that it needs features.
        asked = [i for i, shadow in enumerate(shadows) if shadow.features is not None or arm.policy is not None]
        fault: FallbackReason = "model_error"
        try:
            if asked:
                items = [shadows[i].item() for i in asked]
                with tracing.spans("shadow", ((shadows[i].traits, shadows[i].span) for i in asked)) as spans:
                    found = await asyncio.to_thread(self._arms.ask, shadows[0].experiment, arm, items, _SECONDS, spans)
                self._health.report(shadows[0].experiment.key(arm.name))
                answers = dict(zip(asked, found, strict=True))
        except Exception as error:
            fault = "model_timeout" if isinstance(error, TimeoutError) else "model_error"
            self._health.report(shadows[0].experiment.key(arm.name), error)
            about = shadows[0].ids(error.cause if isinstance(error, ArmError) else type(error).__name__)
            log.warning("arm %s in the shadow, %s: %s", arm.name, about["cause"], error, extra=about)
        records = []
        for i, shadow in enumerate(shadows):
            answer = answers.get(i)
            if isinstance(answer, ArmAnswer):
                shadow.take(answer)
                records.append(_record(shadow, None))
            elif isinstance(answer, ArmError):
                about = shadow.ids(answer.cause)
                log.warning("arm %s in the shadow, %s: %s", arm.name, answer.cause, answer, extra=about)
                records.append(_record(shadow, answer.reason))
            else:
                records.append(_record(shadow, fault if i in asked else "features"))
        return records


def _challengers(decision: PendingDecision) -> list[Arm]:
    return [arm for arm in decision.experiment.arms if arm.name != INCUMBENT]


def _record(shadow: PendingDecision, fault: FallbackReason | None) -> ShadowRecord:
    answer = shadow.answer
    return {
        "schema_version": VERSION,
        "shadow_id": f"{shadow.decision_id}.{shadow.arm}",
        "decision_id": shadow.decision_id,
        "experiment": shadow.experiment.name,
        "arm": shadow.arm,
        "fault": fault,
        "channel": answer.channel if answer else None,
        "expose": answer.expose if answer else None,
        "propensity": answer.propensity if answer else None,
        "exploration": shadow.exploration,
        "channel_probs": dict(answer.channel_probs) if answer else {},
        "exposure_probs": dict(answer.exposure_probs) if answer else {},
        "expected_reward": answer.expected_reward if answer else None,
        "expected_cost": answer.expected_cost if answer else None,
        "expected_rewards": dict(answer.expected_rewards) if answer else {},
        "expected_costs": dict(answer.expected_costs) if answer else {},
        "price": answer.price if answer else None,
        "prices": dict(answer.prices) if answer else {},
        "model_name": answer.model["name"] if answer else None,
        "model_version": answer.model["version"] if answer else None,
        "model_digest": answer.model["digest"] if answer else None,
        "event_time": datetime.now(UTC).isoformat(timespec="microseconds"),
    }

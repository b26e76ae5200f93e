"""Stage `shadow`: asks challengers after the answer has gone out, and spends nothing.

Their decisions are records of another kind, with the incumbent's features, prices and draws. If challengers are slower
than the traffic, some decisions have no shadow, which is counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mtorl.experiment.arm import INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from mtorl.log.records import VERSION, ShadowRecord
from serving.decision_log import Spool
from serving.router.flow.arm_answers import ArmAnswer, fault_of
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
                    _count(decision.experiment, arm, "dropped")
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
        # An endpoint needs the window; a policy of the file reports itself that it needs features.
        asked = [shadow for shadow in shadows if shadow.features is not None or arm.policy is not None]
        try:
            answers = await self._answers(arm, asked) if asked else []
            for shadow in shadows:
                shadow.fault = "features"
            for shadow, answer in zip(asked, answers, strict=True):
                _take(shadow, answer)
            records = [_record(shadow) for shadow in shadows]
            async with asyncio.timeout(_SECONDS):
                await asyncio.wrap_future(self._spool.submit("shadow", *records))
        except Exception as error:
            about = shadows[0].ids(type(error).__name__)
            log.warning("%d decisions have no shadow, %s: %s", len(shadows), about["cause"], error, extra=about)
            _count(decisions[0].experiment, arm, "dropped", len(shadows))
            return
        for shadow in shadows:
            _count(shadow.experiment, arm, "failed" if shadow.fault else "answered")

    async def _answers(self, arm: Arm, asked: Sequence[PendingDecision]) -> Sequence[ArmAnswer | Exception]:
        experiment, items = asked[0].experiment, [shadow.item() for shadow in asked]
        try:
            with tracing.spans("shadow", ((shadow.traits, shadow.span) for shadow in asked)) as spans:
                found = await asyncio.to_thread(self._arms.ask, experiment, arm, items, _SECONDS, spans)
            self._health.report(experiment.key(arm.name))
            return found
        except Exception as error:
            self._health.report(experiment.key(arm.name), error)
            return [error] * len(asked)


def _take(shadow: PendingDecision, answer: ArmAnswer | Exception) -> None:
    shadow.fault = None
    if isinstance(answer, Exception):
        shadow.fault, cause = fault_of(answer)
        log.warning("arm %s in the shadow, %s: %s", shadow.arm, cause, answer, extra=shadow.ids(cause))
    else:
        shadow.take(answer)


def _count(experiment: Experiment, arm: Arm, result: str, decisions: int = 1) -> None:
    metrics.SHADOW.labels(experiment.name, arm.name, result).inc(decisions)


def _challengers(decision: PendingDecision) -> list[Arm]:
    return [arm for arm in decision.experiment.arms if arm.name != INCUMBENT]


def _record(shadow: PendingDecision) -> ShadowRecord:
    answer = shadow.answer
    return {
        "schema_version": VERSION,
        "shadow_id": f"{shadow.decision_id}.{shadow.arm}",
        "decision_id": shadow.decision_id,
        "experiment": shadow.experiment.name,
        "arm": shadow.arm,
        "fault": shadow.fault,
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

"""What is wrong with the answers of an arm: counted by cause, and in words for as long as it lasts.

An arm that answers, but now and then not with a decision, is not silent: most of its users notice nothing, and the next
good answer would hide the fault. So its sentence stays in `/health/ready` until a minute has passed without another,
`mtorl_arm_answer_faults_total` counts such answers, and the log has the sentence with the ids of a decision, once a
minute for each arm and cause. Causes are those of `mtorl arm check`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic

from serving.router.flow.arm_answers import ArmError
from serving.router.ops import metrics
from serving.router.ops.health import Health

SECONDS = 60.0  # without a fault, until health forgets the last one
_LONGEST = 300  # characters of a sentence in health: an arm may be anybody's program


class ArmFaults:
    """Hears of every call of an arm, from whatever thread.

    Args:
        health: Is told the last fault of each arm.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._last: dict[str, float] = {}

    def count(self, arm: str, faults: Sequence[ArmError]) -> None:
        """Note the faults of a call, one for each answer.

        Args:
            arm: Which arm was asked, by `Experiment.key`.
            faults: Those among its answers; empty, usually.
        """
        if not faults:
            if monotonic() - self._last.get(arm, math.inf) >= SECONDS:
                self.forget(arm)
            return
        self._last[arm] = monotonic()
        self._health.note(_part(arm), str(faults[-1])[:_LONGEST])
        for fault in faults:
            metrics.ARM_ANSWER_FAULTS.labels(*metrics.arm_labels(arm), fault.cause).inc()

    def forget(self, arm: str) -> None:
        """Take back what was said of an arm: its answers are good, or it is another one now."""
        if self._last.pop(arm, None) is not None:
            self._health.forget(_part(arm))


def _part(arm: str) -> str:
    return f"{arm}'s answers"

"""Which model each arm answers with: whether it is the one that the experiment names, and whether it has changed.

An experiment compares policies, and a policy is a model. If two endpoints are swapped, every decision counts for the
wrong arm, so answers of another model than the experiment file names (`model_digest` of an arm) are none. If it names
none, models may come and go, as they do when one is promoted or rolled back. Decisions go on then, but a log warning,
`mtorl_arm_model_changes_total` and `/health/ready` say so, and the verdict judges the newest models alone
(`monitoring/verdict/judged_models.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from serving.router.flow.arm_answers import ArmError
from serving.router.flow.arm_client import shown
from serving.router.ops import metrics
from serving.router.ops.health import Health

log = logging.getLogger(__name__)


class WrongModel(ArmError):
    """Another model answers than the experiment names for the arm."""


class ArmModels:
    """Looks at who answers.

    Args:
        health: Is told when an arm's model has changed.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._salts: dict[str, str] = {}  # of each experiment
        self._newest: dict[str, str] = {}
        self._lock = threading.Lock()  # an arm is asked by several threads, and each change of its model is said once

    def check(self, experiment: Experiment, arm: Arm, models: Iterable[str | None]) -> None:
        """Note the models that answered for an arm of an experiment.

        Args:
            experiment: An experiment in force.
            arm: Its arm.
            models: Digest of each or, without one, name and version; None: it does not say.

        Raises:
            WrongModel: One of them is not the experiment's.
        """
        with self._lock:
            self._check(experiment, arm, models)

    def _check(self, experiment: Experiment, arm: Arm, models: Iterable[str | None]) -> None:
        if self._salts.get(experiment.name) != experiment.salt:
            self._start_over(experiment)
        key = experiment.key(arm.name)
        for model in models:
            if arm.model_digest is not None and not (model or "").startswith(arm.model_digest):
                who = f"model {model}" if model else "a model without a digest"
                raise WrongModel(
                    f"{shown(arm.url or '')}: {who} answers, and the experiment names {arm.model_digest} for "
                    f"{arm.name}; mend endpoint or model_digest",
                    "model_digest",
                )
            if model is None:
                continue
            before, self._newest[key] = self._newest.get(key, model), model
            if model != before:
                text = f"model {_short(model)} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}, {_short(before)} before"
                metrics.ARM_MODEL_CHANGES.labels(experiment.name, arm.name).inc()
                self._health.note(key, f"{text}: the verdict judges what the newest models decided")
                about = {"experiment": experiment.name, "arm": arm.name, "cause": model}
                log.warning("%s: %s; a new model is a new experiment: give it a new salt", key, text, extra=about)

    def _start_over(self, experiment: Experiment) -> None:
        """Of another experiment, whatever its arms answer first is theirs."""
        for arm in experiment.arms:
            if self._newest.pop(key := experiment.key(arm.name), None) is not None:
                self._health.note(key)
        self._salts[experiment.name] = experiment.salt


def _short(model: str) -> str:
    return model if len(model) <= 40 else model[:12]  # a digest

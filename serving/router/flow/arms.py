"""Asks the arms, which may be any program: one POST for all waiting items of an arm.

    POST <endpoint>                    {"instances": [{"window": ..., "u": ..., "user_id": ..., ...}, ...]}
    -> {"predictions": [...]}          v1
    -> [...]                           or the list alone; to a single item, an answer alone
    POST <endpoint>/infer              {"inputs": [{"name": "instances", "datatype": "BYTES", ...}]}     v2
    -> {"outputs": [{"datatype": "BYTES", "data": ["<an answer as JSON>", ...]}]}

An answer is read by its form, whatever was asked. Its fields: `arm_answers.py`.

Faults of answers are counted by cause, and the last one stays in `/health/ready` for a minute: if an arm answers some
requests wrongly, the next good answer would hide the fault.

If two endpoints are swapped, every decision counts for the wrong arm. So answers of another model than the experiment
names (`model_digest` of an arm) are errors. If it names none, a model may change, as in a promotion or a rollback:
decisions go on, a log warning, `mtorl_arm_model_changes_total` and `/health/ready` report the change, and the verdict
judges the newest models alone (`monitoring/verdict/counted_decisions.py`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from http.client import HTTPMessage
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import orjson
from opentelemetry.trace import Span

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.runtime.validation import short
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, Identity, identity, read_answer
from serving.router.flow.arm_client import ArmClient, shown
from serving.router.flow.local_policies import answer_here
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health

Items = Sequence[dict[str, Any]]
FAULT_SECONDS = 60.0  # without a fault, until health forgets the last one
_LONGEST = 300  # characters of a sentence in health: an arm may be any program

log = logging.getLogger(__name__)


class Arms:
    """Client of all arms; its calls block."""

    def __init__(self, channels: Sequence[str], health: Health) -> None:
        self._channels = channels
        self._models = ArmModels(health)
        self.faults = ArmFaults(health)
        self._client = ArmClient()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def ask(
        self, experiment: Experiment, arm: Arm, items: Items, seconds: float, spans: Iterable[Span] = ()
    ) -> list[ArmAnswer | ArmError]:
        """Ask for a decision on each item (`PendingDecision.item`), in one call.

        Returns:
            An answer or an error for each item, in order.

        Raises:
            ArmError: The whole call failed, or another model than the arm's answered.
            TimeoutError: There is no answer within `seconds`.
        """
        try:
            if (url := arm.url) is None:
                answers = [answer_here(arm, item) for item in items]
            else:
                named = {**NOBODY, "name": arm.model_name, "version": arm.model_version}
                answers = self.ask_at(url, items, seconds, spans, named)
            self._models.check(experiment, arm, [identity(a.model) for a in answers if isinstance(a, ArmAnswer)])
        except ArmError as error:
            self.faults.count(experiment.key(arm.name), [error] * len(items))
            raise
        faults = [answer for answer in answers if isinstance(answer, ArmError) and answer.reason == ArmError.reason]
        self.faults.count(experiment.key(arm.name), faults)
        return answers

    def ask_at(
        self, url: str, items: Items, seconds: float, spans: Iterable[Span] = (), named: Identity = NOBODY
    ) -> list[ArmAnswer | ArmError]:
        """As `ask`, for any URL; `named` counts if neither answer nor headers name the model."""
        status, said, body = self._said(url, items, seconds, spans)
        if status != 200:
            raise ArmError(f"{shown(url)}: HTTP {status}: {body[:200]!r}", "status")
        model = {**named, **{key: said[f"x-model-{key}"] for key in ("name", "version") if said.get(f"x-model-{key}")}}
        return [self._read(answer, item, model) for answer, item in zip(_answers(body, len(items)), items, strict=True)]

    def raw_answer(self, url: str, items: Items, seconds: float) -> str:
        """The text of an answer; raises as `ask`."""
        return self._said(url, items, seconds, ())[2].decode(errors="replace")

    def _said(self, url: str, items: Items, seconds: float, spans: Iterable[Span]) -> tuple[int, HTTPMessage, bytes]:
        headers = {"content-type": "application/json", **tracing.outgoing(spans)}
        return self._client.post(url, _question(url, items), headers, seconds)

    def _read(self, answer: Any, item: dict[str, Any], model: Identity) -> ArmAnswer | ArmError:
        try:
            return read_answer(answer, self._channels, item["candidates"], model)
        except ArmError as error:
            return error


class ArmFaults:
    """Faults of all arms; for any thread."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._last: dict[str, float] = {}

    def count(self, arm: str, faults: Sequence[ArmError]) -> None:
        """Note the faults among the answers of a call; `arm` is an `Experiment.key`."""
        if not faults:
            if monotonic() - self._last.get(arm, math.inf) >= FAULT_SECONDS:
                self.forget(arm)
            return
        self._last[arm] = monotonic()
        self._health.note(_part(arm), str(faults[-1])[:_LONGEST])
        for fault in faults:
            metrics.ARM_ANSWER_FAULTS.labels(*metrics.arm_labels(arm), fault.cause).inc()

    def forget(self, arm: str) -> None:
        """Forget an arm's faults: its answers are good, or it is another arm now."""
        if self._last.pop(arm, None) is not None:
            self._health.forget(_part(arm))


def _part(arm: str) -> str:
    return f"{arm}'s answers"


class WrongModel(ArmError):
    """Another model answers than the experiment names for the arm."""


class ArmModels:
    """The newest model of each arm; for any thread."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._salts: dict[str, str] = {}  # of each experiment
        self._newest: dict[str, str] = {}
        self._lock = threading.Lock()  # several threads ask an arm, and each change of its model is reported once

    def check(self, experiment: Experiment, arm: Arm, models: Iterable[str | None]) -> None:
        """Note the identities (`arm_answers.identity`) that answered for an arm; raises WrongModel."""
        with self._lock:
            if self._salts.get(experiment.name) != experiment.salt:
                self._start_over(experiment)
            for model in models:
                if arm.model_digest is not None and not (model or "").startswith(arm.model_digest):
                    who = f"model {model}" if model else "a model without a digest"
                    raise WrongModel(
                        f"{shown(arm.url or '')}: {who} answers, and the experiment names {arm.model_digest} for "
                        f"{arm.name}; mend endpoint or model_digest",
                        "model_digest",
                    )
                if model is not None:
                    self._note(experiment, arm, model)

    def _note(self, experiment: Experiment, arm: Arm, model: str) -> None:
        key = experiment.key(arm.name)
        before, self._newest[key] = self._newest.get(key, model), model
        if model != before:
            text = f"model {_short(model)} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}, {_short(before)} before"
            metrics.ARM_MODEL_CHANGES.labels(experiment.name, arm.name).inc()
            self._health.note(key, f"{text}: the verdict judges what the newest models decided")
            about = {"experiment": experiment.name, "arm": arm.name, "cause": model}
            log.warning("%s: %s; a new model is a new experiment: give it a new salt", key, text, extra=about)

    def _start_over(self, experiment: Experiment) -> None:
        """A new salt is a new experiment: the models that answer first are its models."""
        for arm in experiment.arms:
            if self._newest.pop(key := experiment.key(arm.name), None) is not None:
                self._health.note(key)
        self._salts[experiment.name] = experiment.salt


def _short(model: str) -> str:
    return model if len(model) <= 40 else model[:12]  # a digest


def _question(url: str, items: Items) -> bytes:
    if not urlsplit(url).path.endswith("/infer"):
        return orjson.dumps({"instances": items})
    texts = [orjson.dumps(item).decode() for item in items]
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return orjson.dumps({"inputs": [tensor]})


def _answers(body: bytes, asked: int) -> list[Any]:
    """The answers in a body; raises ArmError unless there is one for each item."""
    try:
        content = orjson.loads(body)
        if isinstance(content, dict) and "outputs" in content:
            content = [orjson.loads(text) for text in content["outputs"][0]["data"]]
    except (orjson.JSONDecodeError, TypeError, LookupError) as error:
        raise ArmError(f"expected JSON, got {short(body)} ({type(error).__name__})", "form") from None
    if isinstance(content, dict):
        content = content.get("predictions", [content] if asked == 1 else content)
    if not isinstance(content, list) or len(content) != asked:
        given = f"{len(content)}" if isinstance(content, list) else short(content)
        raise ArmError(
            f"expected {asked} answers, in a list or as predictions, in the order of the items; got {given}", "form"
        )
    return content

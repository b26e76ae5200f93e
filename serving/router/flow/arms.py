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

Arms that no traffic reaches are probed (`ArmWatch`): a challenger in the shadow, a host that an experiment file has
mistyped. An arm that is new or has moved is probed at once. If an arm does not answer, the experiment stays in force,
and its users get the default action; health, a metric by arm and the log say for how long.
"""

import asyncio
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
from mtorl.log.dataset import DatasetSpec
from mtorl.log.times import iso
from mtorl.runtime.validation import short
from mtorl.window.window import instance_from_history
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, Identity, answer_here, identity, read_answer
from serving.router.flow.arm_client import ArmClient, shown
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import LiveExperiments

Items = Sequence[dict[str, Any]]
FAULT_SECONDS = 60.0  # without a fault, until health forgets the last one
LOOK_SECONDS = 15.0  # without an answer, good or bad, until an arm is probed
_TICK_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0  # of a probe
_LONGEST = 300  # characters of a sentence in health: an arm may be any program

log = logging.getLogger(__name__)


class WrongModel(ArmError):
    """Another model answers than the experiment names for the arm."""


class Arms:
    """Client of all arms; its calls block."""

    def __init__(self, channels: Sequence[str], health: Health) -> None:
        self._channels = channels
        self._health = health
        self._last_fault: dict[str, float] = {}  # of each arm
        self._newest: dict[str, tuple[str, str]] = {}  # salt of the experiment and newest model of each arm
        self._lock = threading.Lock()  # several threads ask an arm, and each change of its model is reported once
        self._client = ArmClient()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def ask(
        self, experiment: Experiment, arm: Arm, items: Items, seconds: float, spans: Iterable[Span] = ()
    ) -> list[ArmAnswer | ArmError]:
        """An answer or an error for each item (`PendingDecision.item`), in order, by one call.

        Raises ArmError if the whole call failed, or another model than the arm's answered; or TimeoutError.
        """
        try:
            if (url := arm.url) is None:
                answers = [answer_here(arm, item) for item in items]
            else:
                named = {**NOBODY, "name": arm.model_name, "version": arm.model_version}
                answers = self.ask_at(url, items, seconds, spans, named)
            for answer in answers:
                if isinstance(answer, ArmAnswer):
                    self._check_model(experiment, arm, identity(answer.model))
        except ArmError as error:
            self._count(experiment.key(arm.name), [error] * len(items))
            raise
        faults = [answer for answer in answers if isinstance(answer, ArmError) and answer.reason == "model_error"]
        self._count(experiment.key(arm.name), faults)
        return answers

    def ask_at(
        self, url: str, items: Items, seconds: float, spans: Iterable[Span] = (), named: Identity = NOBODY
    ) -> list[ArmAnswer | ArmError]:
        """As `ask`, for any URL; `named` counts if neither answer nor headers name the model."""
        status, said, body = self.post(url, items, seconds, spans)
        if status != 200:
            raise ArmError(f"{shown(url)}: HTTP {status}: {body[:200]!r}", "status")
        model = {**named, **{key: said[f"x-model-{key}"] for key in ("name", "version") if said.get(f"x-model-{key}")}}
        return [self._read(answer, item, model) for answer, item in zip(_answers(body, len(items)), items, strict=True)]

    def post(
        self, url: str, items: Items, seconds: float, spans: Iterable[Span] = ()
    ) -> tuple[int, HTTPMessage, bytes]:
        """Status, headers and body of what an endpoint answers to items; raises as `ask`."""
        headers = {"content-type": "application/json", **tracing.outgoing(spans)}
        return self._client.post(url, _question(url, items), headers, seconds)

    def _read(self, answer: Any, item: dict[str, Any], model: Identity) -> ArmAnswer | ArmError:
        try:
            return read_answer(answer, self._channels, item["candidates"], model)
        except ArmError as error:
            return error

    def _check_model(self, experiment: Experiment, arm: Arm, model: str | None) -> None:
        if arm.model_digest is not None and not (model or "").startswith(arm.model_digest):
            who = f"model {model}" if model else "a model without a digest"
            raise WrongModel(
                f"{shown(arm.url or '')}: {who} answers, and the experiment names {arm.model_digest} for {arm.name}; "
                "mend endpoint or model_digest",
                "model_digest",
            )
        if model is None:
            return
        key = experiment.key(arm.name)
        with self._lock:
            salt, before = self._newest.get(key, (None, model))
            self._newest[key] = experiment.salt, model
        if salt != experiment.salt:  # a new salt is a new experiment: the models that answer first are its models
            if salt is not None:
                self._health.note(key)
        elif model != before:
            now, former = (name if len(name) <= 40 else name[:12] for name in (model, before))  # longer: a digest
            text = f"model {now} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}, {former} before"
            metrics.ARM_MODEL_CHANGES.labels(experiment.name, arm.name).inc()
            self._health.note(key, f"{text}: the verdict judges what the newest models decided")
            about = {"experiment": experiment.name, "arm": arm.name, "cause": model}
            log.warning("%s: %s; a new model is a new experiment: give it a new salt", key, text, extra=about)

    def _count(self, arm: str, faults: Sequence[ArmError]) -> None:
        """Note the faults among the answers of a call; `arm` is an `Experiment.key`."""
        if not faults:
            if monotonic() - self._last_fault.get(arm, math.inf) >= FAULT_SECONDS:
                self.forget_faults(arm)
            return
        self._last_fault[arm] = monotonic()
        self._health.note(f"{arm}'s answers", str(faults[-1])[:_LONGEST])
        for fault in faults:
            metrics.of_arm(metrics.ARM_ANSWER_FAULTS, arm, cause=fault.cause).inc()

    def forget_faults(self, arm: str) -> None:
        """Forget an arm's faults: its answers are good, or it is another arm now."""
        if self._last_fault.pop(arm, None) is not None:
            self._health.forget(f"{arm}'s answers")


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
                self._arms.forget_faults(name)
                metrics.of_arm(metrics.ARM_SILENT, name).set(0)
        self._urls = urls
        due = [name for name, url in urls.items() if url and self._health.quiet(name) >= LOOK_SECONDS]
        await asyncio.gather(*(self._ask(*arms[name]) for name in due))
        for name, url in urls.items():
            fault = self._health.fault(name)
            metrics.of_arm(metrics.ARM_SILENT, name).set(fault.seconds if fault else 0.0)
            if fault and name in due:
                experiment, arm = arms[name]
                cause, where = type(fault.error).__name__, shown(url or "")
                about = {"experiment": experiment.name, "arm": arm.name, "cause": cause}
                why = f"{cause}: {fault.error}"
                log.warning("%s (%s) has not answered for %.0f s: %s", name, where, fault.seconds, why, extra=about)

    async def _ask(self, experiment: Experiment, arm: Arm) -> None:
        key = experiment.key(arm.name)
        try:
            (answer,) = await asyncio.to_thread(self._arms.ask, experiment, arm, [self._item], _PATIENCE_SECONDS)
        except Exception as error:
            self._health.report(key, error)
            return
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

"""Calls the arms, which may be any program, with one POST for all waiting items of an arm.

    POST <endpoint>                    {"instances": [{"window": ..., "u": ..., "user_id": ..., ...}, ...]}
    -> {"predictions": [...]}          v1
    -> [...]                           or only the list; for a single item, also only the answer
    POST <endpoint>/infer              {"inputs": [{"name": "instances", "datatype": "BYTES", ...}]}     v2
    -> {"outputs": [{"datatype": "BYTES", "data": ["<an answer as JSON>", ...]}]}

In both protocols, an answer may have these fields:

    {"channel": "search", "expose": true}                                     # sufficient
    {"channel": "search", "expose": true, "propensity": 0.7}                  # the arm can be evaluated on its log
    {..., "channel_probs": {"search": 0.7, "video": 0.3}, "exposure_probs": {"search": 1, "video": 0}}
                                                                              # ... and so can any other policy
    {..., "expected_reward": 0.1, "expected_cost": 0.03, "expected_rewards": {...}, "expected_costs": {...}}
    {..., "price": 0.3, "prices": {...}, "state_distance": 1.1, "model": {"name": ..., "version": ..., "digest": ...}}

A field that an arm leaves out is null in the record and in the router's answer. The probabilities of all channels must
add up to one. If an arm gives only the probability of the chosen channel, only that one is logged. If the policy of an
arm is in the experiment file (the request's baseline, or rows, `mtorl/experiment/rule.py`), this module computes its
answers. Faults of answers are counted by cause. The last one stays in `/health/ready` for a minute, because the next
good answer would otherwise hide it.

If two endpoints are swapped, every decision counts for the wrong arm. So if the experiment names an arm's model
(`model_digest`), answers of another model are errors. If it names none, the model may change, as in a promotion or a
rollback. Decisions are then still served. The log, `mtorl_arm_model_changes_total` and `/health/ready` report the
change, and the verdict judges only the newest models (`monitoring/verdict/counted_decisions.py`).
"""

import asyncio
import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
from opentelemetry.trace import Span
from pydantic import Field, TypeAdapter, ValidationError

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.rule import first_fit
from mtorl.log.dataset import DatasetSpec
from mtorl.log.records import Baseline, FallbackReason
from mtorl.log.times import iso
from mtorl.runtime.validation import first_fault, short
from mtorl.window.window import instance_from_history
from serving.router.flow.arm_client import Answer, ArmClient, ArmError, shown
from serving.router.messages import ARM_ANSWERS, MODEL_CHANGED
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import LiveExperiments

FAULT_SECONDS = 60.0  # an arm's last fault is shown for this long
PROBE_SECONDS = 15.0  # an arm without an answer is tested after so long
_PATIENCE_SECONDS = 5.0  # timeout of a test request
_PROBES = 8  # most test requests at the same time
_LONGEST = 300  # most characters of an arm's error in /health/ready
_ROUNDING = 1e-6  # tolerance for single probabilities
_SUM_ROUNDING = 1e-3  # tolerance for sums, which may be computed with 32-bit floats

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Probability = Annotated[NotNegative, Field(le=1)]
NearProbability = Annotated[NotNegative, Field(le=1 + _ROUNDING)]
Items = Sequence[dict[str, Any]]
Identity = Mapping[str, str | None]
"""Identity of a model: its name, version and digest. A value is None if it is unknown."""

NOBODY: Identity = {"name": None, "version": None, "digest": None}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArmAnswer:
    """The decision of a policy. Missing fields are None or empty; mappings are by channel."""

    channel: str
    expose: Annotated[bool, Field(strict=True)]
    propensity: Annotated[NearProbability, Field(gt=0)] | None = None
    channel_probs: Mapping[str, NearProbability] = field(default_factory=dict)  # of all candidates or only `channel`
    exposure_probs: Mapping[str, Probability] = field(
        default_factory=dict
    )  # probability of showing the ad if the channel is chosen
    expected_reward: Number | None = None
    expected_cost: NotNegative | None = None
    expected_rewards: Mapping[str, Number] = field(default_factory=dict)
    expected_costs: Mapping[str, NotNegative] = field(default_factory=dict)
    price: NotNegative | None = None
    prices: Mapping[str, NotNegative] = field(default_factory=dict)
    state_distance: NotNegative | None = None
    model: Identity = field(default_factory=lambda: NOBODY)


_FORM = TypeAdapter(ArmAnswer)
_BY_CHANNEL = ("channel_probs", "exposure_probs", "expected_rewards", "expected_costs", "prices")


def identity(model: Identity) -> str | None:
    """Return a model's digest, or else its name and version; None if all are unknown."""
    return model["digest"] or " ".join(filter(None, (model["name"], model["version"]))) or None


def fault_of(error: Exception) -> tuple[FallbackReason, str]:
    """Return the fallback reason for an arm's error, and its cause for the log."""
    if isinstance(error, ArmError):
        return error.reason, error.cause
    reason: FallbackReason = "model_timeout" if isinstance(error, TimeoutError) else "model_error"
    return reason, reason


class Arms:
    """A client for the policies of all arms. Calls block."""

    def __init__(self, channels: Sequence[str], health: Health) -> None:
        self._channels = channels
        self._health = health
        self._last_fault: dict[str, float] = {}  # arm -> time of its last invalid answer
        self._newest: dict[str, tuple[str, str]] = {}  # arm -> its experiment's salt, and its last model
        self._lock = threading.Lock()  # guards `_newest`, so that only one thread reports a change
        self._client = ArmClient()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def predict(
        self, experiment: Experiment, arm: Arm, items: Items, seconds: float, spans: Iterable[Span] = ()
    ) -> list[ArmAnswer | ArmError]:
        """Send all items to an arm in one call; returns a decision or an error for each item.

        Raises TimeoutError, or ArmError if the whole call failed or another model answered than the experiment expects.
        """
        key = experiment.key(arm.name)
        try:
            if (url := arm.url) is None:
                answers = [answer_here(arm, item) for item in items]
            else:
                named = {**NOBODY, "name": arm.model_name, "version": arm.model_version}
                answers = self.predict_at(url, items, seconds, spans, named)
            for answer in answers:
                if isinstance(answer, ArmAnswer):
                    self._check_model(experiment, arm, identity(answer.model))
        except ArmError as error:
            self._count(key, [error] * len(items))
            raise
        self._count(key, [one for one in answers if isinstance(one, ArmError) and one.reason == "model_error"])
        return answers

    def predict_at(
        self, url: str, items: Items, seconds: float, spans: Iterable[Span] = (), named: Identity = NOBODY
    ) -> list[ArmAnswer | ArmError]:
        """Like `predict`, for any URL. `named` is the model if the answer names none."""
        status, said, body = self.post(url, items, seconds, spans)
        if status != 200:
            raise ArmError(f"{shown(url)}: HTTP {status}: {body[:200]!r}", "status")
        model = {**named, **{key: said[f"x-model-{key}"] for key in ("name", "version") if said.get(f"x-model-{key}")}}
        return [self._read(answer, item, model) for answer, item in zip(_answers(body, len(items)), items, strict=True)]

    def post(self, url: str, items: Items, seconds: float, spans: Iterable[Span] = ()) -> Answer:
        """Post items; returns the status, headers and body of the answer. Raises ArmError or TimeoutError."""
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
            wanted = f"the experiment names {arm.model_digest} for {arm.name}: correct the endpoint or model_digest"
            raise WrongModel(f"{shown(arm.url or '')}: {who} answers, but {wanted}", "model_digest")
        if model is None:
            return
        key = experiment.key(arm.name)
        with self._lock:
            salt, before = self._newest.get(key, (None, model))
            self._newest[key] = experiment.salt, model
        if salt != experiment.salt:  # a new experiment's first model is not a change
            if salt is not None:
                self._health.note(key)
        elif model != before:
            now, former = (name if len(name) <= 40 else name[:12] for name in (model, before))  # longer: a digest
            text = MODEL_CHANGED(now=now, since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", before=former)
            metrics.ARM_MODEL_CHANGES.labels(experiment.name, arm.name).inc()
            self._health.note(key, text)
            about = {"experiment": experiment.name, "arm": arm.name, "cause": model}
            log.warning("%s: %s; a new model is a new experiment: give it a new salt", key, text, extra=about)

    def _count(self, arm: str, faults: Sequence[ArmError]) -> None:
        if not faults:
            if monotonic() - self._last_fault.get(arm, math.inf) >= FAULT_SECONDS:
                self.forget_faults(arm)
            return
        self._last_fault[arm] = monotonic()
        self._health.note(f"{arm}'s answers", ARM_ANSWERS(error=str(faults[-1])[:_LONGEST]))
        for fault in faults:
            metrics.of_arm(metrics.ARM_ANSWER_FAULTS, arm, cause=fault.cause).inc()

    def forget_faults(self, arm: str) -> None:
        """Remove an arm's last fault from health."""
        if self._last_fault.pop(arm, None) is not None:
            self._health.forget(f"{arm}'s answers")


class WrongModel(ArmError):
    """Raised if an answer comes from another model than the experiment names."""


def _question(url: str, items: Items) -> bytes:
    if not urlsplit(url).path.endswith("/infer"):
        return orjson.dumps({"instances": items})
    texts = [orjson.dumps(item).decode() for item in items]
    return orjson.dumps({"inputs": [{"name": "instances", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]})


def _answers(body: bytes, asked: int) -> list[Any]:
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
        raise ArmError(f"expected {asked} answers in the order of the items, got {given}", "form")
    return content


def read_answer(answer: Any, channels: Sequence[str], candidates: Sequence[str], model: Identity) -> ArmAnswer:
    """Validate an arm's answer to one item; raises ArmError. `model` is used if the answer names none."""
    if not isinstance(answer, dict):
        example = f'{{"channel": "{candidates[0]}", "expose": true}}'
        raise ArmError(f"expected an object such as {example}, got {short(answer)}", "form")
    if "error" in answer:
        raise ArmError(f"the arm has an error: {str(answer['error'])[:200]}", "error")
    said = {name: value for name, value in answer.items() if value is not None}
    if isinstance(who := said.get("model"), dict):  # may have further fields
        said["model"] = {key: who.get(key) for key in NOBODY}
    try:
        found = _FORM.validate_python(said)
    except ValidationError as error:
        raise ArmError(first_fault(error), str(error.errors(include_url=False)[0]["loc"][0])) from None
    if found.channel not in candidates:
        raise _wrong("channel", f"{short(found.channel)} is not on offer; answer one of {', '.join(candidates)}")
    for name in _BY_CHANNEL:
        if unknown := [channel for channel in getattr(found, name) if channel not in channels]:
            raise _wrong(name, f"unknown channel {short(unknown[0])}; known: {', '.join(channels)}")
    if found.exposure_probs.get(found.channel) == float(not found.expose):
        raise _wrong("exposure_probs", f"{found.channel} has {float(not found.expose):g}, and expose is {found.expose}")
    propensity, probs = _probabilities(found, candidates)
    named = {key: found.model.get(key) or model[key] for key in NOBODY}
    return replace(found, propensity=propensity, channel_probs=probs, model=named)


def _probabilities(said: ArmAnswer, candidates: Sequence[str]) -> tuple[float | None, Mapping[str, float]]:
    """Return the propensity, and the known probabilities of candidates."""
    propensity = None if said.propensity is None else min(said.propensity, 1.0)
    if not said.channel_probs:
        return propensity, {} if propensity is None else {said.channel: propensity}
    probs = {name: min(said.channel_probs.get(name, 0.0), 1.0) for name in candidates}
    if abs((total := sum(probs.values())) - 1.0) > _SUM_ROUNDING:
        raise _wrong("channel_probs", f"those of the candidates must add up to 1, they add up to {total:g}")
    if (chosen := probs[said.channel]) == 0.0:
        raise _wrong("channel_probs", f"{said.channel} was chosen, so its probability is above 0")
    if propensity is not None and abs(chosen - propensity) > _ROUNDING:
        raise _wrong("propensity", f"{propensity:g}, and channel_probs has {chosen:g} for {said.channel}")
    return chosen if propensity is None else propensity, probs


def _wrong(field: str, text: str) -> ArmError:
    return ArmError(f"{field}: {text}", field)


def answer_here(arm: Arm, item: Mapping[str, Any]) -> ArmAnswer | ArmError:
    """Compute the decision of an arm whose policy is in the experiment file."""
    candidates, rule = item["candidates"], arm.policy
    assert rule is not None, "an arm with an endpoint is asked there"
    if rule == "baseline":
        if "baseline" not in item:
            words = f"{arm.name} is the request's baseline, and this request has no baseline: send it with each request"
            return ArmError(words, "no_baseline", "no_baseline")
        # A change between baseline and endpoint counts as a change of the model.
        return replace(answer_of(item["baseline"], candidates), model={**NOBODY, "name": "baseline"})
    values = dict(item["context"])
    if item["window"] is not None:
        values |= item["window"]["static"]
    elif missing := {name for row in rule for name in row.when} - set(values):
        words = f"the policy needs {', '.join(sorted(missing))} of the user, which could not be read"
        return ArmError(words, "features", "features")
    if (row := first_fit(rule, values, candidates)) is None:
        offered = ", ".join(candidates)
        return ArmError(f"no row of the policy fits {offered}: add rows for all channels", "policy")
    return _certain(row.channel, row.expose, candidates, {**NOBODY, "name": "rule", "digest": arm.rule_digest})


def answer_of(baseline: Baseline, candidates: Sequence[str]) -> ArmAnswer:
    """Convert the request's `baseline` to an answer."""
    channel, expose, propensity = baseline["channel"], baseline["expose"], baseline["propensity"]
    if propensity == 1.0:
        return _certain(channel, expose, candidates, NOBODY)
    return ArmAnswer(channel, expose, propensity, {} if propensity is None else {channel: propensity})


def _certain(channel: str, expose: bool, candidates: Sequence[str], model: Identity) -> ArmAnswer:
    probs = {name: float(name == channel) for name in candidates}
    return ArmAnswer(channel, expose, 1.0, probs, dict.fromkeys(candidates, float(expose)), model=model)


class ArmWatch:
    """Sends test requests to new arms and to arms without traffic."""

    def __init__(self, live: LiveExperiments, arms: Arms, spec: DatasetSpec, health: Health) -> None:
        self._live = live
        self._arms = arms
        self._health = health
        self._urls: dict[str, str | None] = {}  # arm -> its URL; None if it has no server
        self._item = neutral_item(spec)
        # Arms that hang must not delay the kill switch.
        self._threads = ThreadPoolExecutor(_PROBES, thread_name_prefix="probe")

    async def probe(self) -> None:
        """Test the arms that have not answered recently."""
        arms = {one.key(arm.name): (one, arm) for one in self._live.experiments for arm in one.arms}
        urls = {name: arm.url for name, (_, arm) in arms.items()}
        for name in self._urls:
            if self._urls[name] != urls.get(name):
                self._health.forget(name)
                self._arms.forget_faults(name)
                metrics.of_arm(metrics.ARM_SILENT, name).set(0)
        self._urls = urls
        due = [name for name, url in urls.items() if url and self._health.quiet(name) >= PROBE_SECONDS]
        await asyncio.gather(*(self._probe(*arms[name]) for name in due))
        for name in urls:
            fault = self._health.fault(name)
            metrics.of_arm(metrics.ARM_SILENT, name).set(fault.seconds if fault else 0.0)

    async def _probe(self, experiment: Experiment, arm: Arm) -> None:
        key, about = experiment.key(arm.name), {"experiment": experiment.name, "arm": arm.name}
        try:
            call = partial(self._arms.predict, experiment, arm, [self._item], _PATIENCE_SECONDS)
            (answer,) = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except Exception as error:
            self._health.report(key, error)
            seconds = fault.seconds if (fault := self._health.fault(key)) else 0.0
            cause, where = type(error).__name__, shown(arm.url or "")
            text = "%s (%s) has not answered for %.0f s: %s: %s"
            log.warning(text, key, where, seconds, cause, error, extra={**about, "cause": cause})
            return
        self._health.report(key)
        if isinstance(answer, ArmError):
            log.warning("arm %s: %s", key, answer, extra={**about, "cause": answer.cause})


def neutral_item(spec: DatasetSpec) -> dict[str, Any]:
    """Build an item for test requests."""
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

"""Answers of arms: those of endpoints are read and checked here, those of policies without a server are made here.

    {"channel": "search", "expose": true}                                     # enough
    {"channel": "search", "expose": true, "propensity": 0.7}                  # can be valued by its own log
    {..., "channel_probs": {"search": 0.7, "video": 0.3}, "exposure_probs": {"search": 1, "video": 0}}   # and any other
                                                                              # policy can be valued on this log
    {..., "expected_reward": 0.1, "expected_cost": 0.03, "expected_rewards": {...}, "expected_costs": {...}}
    {..., "price": 0.3, "prices": {...}, "state_distance": 1.1, "model": {"name": ..., "version": ..., "digest": ...}}

A field that an arm leaves out is null in the record and in the router's answer, never a guess. The probabilities of all
channels add up to one; a probability of the chosen channel alone is kept as just that.

Policies of the experiment file (`mtorl/experiment/rule.py`) are the request's baseline, or rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from mtorl.experiment.arm import Arm
from mtorl.experiment.rule import first_fit
from mtorl.log.records import Baseline, FallbackReason
from mtorl.runtime.validation import first_fault, short

_ROUNDING = 1e-6  # a probability may exceed 1 by this much, and differ from itself written elsewhere
_SUM_ROUNDING = 1e-3  # a model's probabilities may come from 32-bit floats

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Probability = Annotated[NotNegative, Field(le=1)]
NearProbability = Annotated[NotNegative, Field(le=1 + _ROUNDING)]
Identity = Mapping[str, str | None]
"""name, version and digest of a model, as far as they are known."""

NOBODY: Identity = {"name": None, "version": None, "digest": None}


class ArmError(RuntimeError):
    """The arm did not answer, or not with a decision; `cause` is a label for metrics: the wrong field, for instance."""

    def __init__(self, text: str, cause: str, reason: FallbackReason = "model_error") -> None:
        super().__init__(text)
        self.cause = cause
        self.reason = reason


def fault_of(error: Exception) -> tuple[FallbackReason, str]:
    """The reason of the default action instead of an answer, and a code for the log."""
    if isinstance(error, ArmError):
        return error.reason, error.cause
    reason: FallbackReason = "model_timeout" if isinstance(error, TimeoutError) else "model_error"
    return reason, reason


@dataclass(frozen=True)
class ArmAnswer:
    """The decision of a policy; None or empty: it did not say. Mappings are by channel."""

    channel: str
    expose: Annotated[bool, Field(strict=True)]
    propensity: Annotated[NearProbability, Field(gt=0)] | None = None
    channel_probs: Mapping[str, NearProbability] = field(default_factory=dict)  # of all candidates, or `channel` alone
    exposure_probs: Mapping[str, Probability] = field(default_factory=dict)  # of each channel, once it is drawn
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
    """The digest of a model or, without one, its name and version; None: all are unknown."""
    return model["digest"] or " ".join(filter(None, (model["name"], model["version"]))) or None


def read_answer(answer: Any, channels: Sequence[str], candidates: Sequence[str], model: Identity) -> ArmAnswer:
    """Check an arm's answer to one item; raises ArmError if it is no decision. `model` is known from elsewhere."""
    if not isinstance(answer, dict):
        raise ArmError(
            f'expected an object such as {{"channel": "{candidates[0]}", "expose": true}}, got {short(answer)}', "form"
        )
    if "error" in answer:
        raise ArmError(f"the arm has an error: {str(answer['error'])[:200]}", "error")
    said = {name: value for name, value in answer.items() if value is not None}
    if isinstance(who := said.get("model"), dict):  # which may say more
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
    """Propensity, and probability of every candidate or, if they are unknown, of the chosen channel alone."""
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
    """The decision of an arm whose policy is in the experiment file, on a `PendingDecision.item`."""
    candidates, rule = item["candidates"], arm.policy
    assert rule is not None, "an arm with an endpoint is asked there"
    if rule == "baseline":
        if "baseline" not in item:
            words = f"{arm.name} is what the request says, and this one has no baseline: send it with each request"
            return ArmError(words, "no_baseline", "no_baseline")
        # Named, as rows are: an arm that changes from or to an endpoint gets another policy.
        return replace(answer_of(item["baseline"], candidates), model={**NOBODY, "name": "baseline"})
    values = dict(item["context"])
    if item["window"] is not None:
        values |= item["window"]["static"]
    elif missing := {name for row in rule for name in row.when} - set(values):
        words = f"the policy asks for {', '.join(sorted(missing))} of the user, and nothing could be read"
        return ArmError(words, "features", "features")
    if (row := first_fit(rule, values, candidates)) is None:
        offered = ", ".join(candidates)
        return ArmError(f"none of {offered} is in a row that fits: give rows for all channels", "policy")
    return _certain(row.channel, row.expose, candidates, {**NOBODY, "name": "rule", "digest": arm.rule_digest})


def answer_of(baseline: Baseline, candidates: Sequence[str]) -> ArmAnswer:
    """The decision of the caller's own logic; with a propensity of 1 it is certain."""
    channel, expose, propensity = baseline["channel"], baseline["expose"], baseline["propensity"]
    if propensity == 1.0:
        return _certain(channel, expose, candidates, NOBODY)
    return ArmAnswer(channel, expose, propensity, {} if propensity is None else {channel: propensity})


def _certain(channel: str, expose: bool, candidates: Sequence[str], model: Identity) -> ArmAnswer:
    """A deterministic decision. Whether to expose does not depend on the channel."""
    probs = {name: float(name == channel) for name in candidates}
    return ArmAnswer(channel, expose, 1.0, probs, dict.fromkeys(candidates, float(expose)), model=model)

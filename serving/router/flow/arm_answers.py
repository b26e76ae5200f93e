"""Reads and checks the answers of arms: two required fields, and optional ones.

    {"channel": "search", "expose": true}                                     # enough
    {"channel": "search", "expose": true, "propensity": 0.7}                  # can be valued by its own log
    {..., "channel_probs": {"search": 0.7, "video": 0.3}, "exposure_probs": {"search": 1, "video": 0}}   # and any other
                                                                              # policy can be valued on this log
    {..., "expected_reward": 0.1, "expected_cost": 0.03, "expected_rewards": {...}, "expected_costs": {...}}
    {..., "price": 0.3, "prices": {...}, "state_distance": 1.1, "model": {"name": ..., "version": ..., "digest": ...}}

A field that an arm leaves out is null in the record and in the router's answer, never a guess. The probabilities of all
channels add up to one; a probability of the chosen channel alone is kept as just that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtorl.log.records import FallbackReason
from mtorl.runtime.validation import short

Numbers = Mapping[str, float]
"""Channel -> number."""
Identity = Mapping[str, str | None]
"""name, version and digest of a model, as far as they are known."""

NOBODY: Identity = {"name": None, "version": None, "digest": None}
_ROUNDING = 1e-6  # a probability may exceed 1 by this much, and differ from itself written elsewhere
_SUM_ROUNDING = 1e-3  # a model's probabilities may come from 32-bit floats


class ArmError(RuntimeError):
    """The arm did not answer, or not with a decision.

    Args:
        cause: A label for metrics, one of few: the wrong field, for instance.
    """

    reason: FallbackReason = "model_error"

    def __init__(self, text: str, cause: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True)
class ArmAnswer:
    """The decision of a policy; None or empty: it did not say."""

    channel: str
    expose: bool
    propensity: float | None = None
    channel_probs: Numbers = field(default_factory=dict)  # of each candidate in their order, or of `channel` alone
    exposure_probs: Numbers = field(default_factory=dict)  # of each channel, once it is drawn
    expected_reward: float | None = None
    expected_cost: float | None = None
    expected_rewards: Numbers = field(default_factory=dict)
    expected_costs: Numbers = field(default_factory=dict)
    price: float | None = None
    prices: Numbers = field(default_factory=dict)
    state_distance: float | None = None
    model: Identity = field(default_factory=lambda: NOBODY)


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
    if missing := [name for name in ("channel", "expose") if name not in answer]:
        raise ArmError(f"missing {' and '.join(missing)}: answer at least channel and expose", missing[0])
    channel, expose = answer["channel"], answer["expose"]
    if channel not in candidates:
        raise _wrong("channel", f"{short(channel)} is not on offer; answer one of {', '.join(candidates)}")
    if not isinstance(expose, bool):
        raise _wrong("expose", f"expected true or false, got {short(expose)}")
    propensity, probs = _probabilities(answer, channel, channels, candidates)
    exposure_probs = _numbers(answer, "exposure_probs", channels, 0.0, 1.0)
    if exposure_probs.get(channel) == float(not expose):
        raise _wrong(
            "exposure_probs", f"{channel} has {exposure_probs[channel]:g}, and expose is {str(expose).lower()}"
        )
    return ArmAnswer(
        channel=channel,
        expose=expose,
        propensity=propensity,
        channel_probs=probs,
        exposure_probs=exposure_probs,
        expected_reward=_number(answer, "expected_reward"),
        expected_cost=_number(answer, "expected_cost", 0.0),
        expected_rewards=_numbers(answer, "expected_rewards", channels),
        expected_costs=_numbers(answer, "expected_costs", channels, 0.0),
        price=_number(answer, "price", 0.0),
        prices=_numbers(answer, "prices", channels, 0.0),
        state_distance=_number(answer, "state_distance", 0.0),
        model=_model(answer, model),
    )


def _probabilities(
    answer: Mapping[str, Any], channel: str, channels: Sequence[str], candidates: Sequence[str]
) -> tuple[float | None, Numbers]:
    """Propensity, and probability of every candidate or, if they are unknown, of the chosen channel alone."""
    propensity = _number(answer, "propensity", 0.0, 1.0 + _ROUNDING)
    probs = _numbers(answer, "channel_probs", channels, 0.0, 1.0 + _ROUNDING)
    if propensity == 0.0:
        raise _wrong("propensity", f"{channel} was chosen, so its probability is above 0")
    if not probs:
        propensity = None if propensity is None else min(propensity, 1.0)
        return propensity, {} if propensity is None else {channel: propensity}
    if abs((total := sum(probs.get(name, 0.0) for name in candidates)) - 1.0) > _SUM_ROUNDING:
        raise _wrong("channel_probs", f"those of the candidates must add up to 1, they add up to {total:g}")
    probs = {name: min(probs.get(name, 0.0), 1.0) for name in candidates}
    if probs[channel] == 0.0:
        raise _wrong("channel_probs", f"{channel} was chosen, so its probability is above 0")
    if propensity is not None and abs(probs[channel] - propensity) > _ROUNDING:
        raise _wrong("propensity", f"{propensity:g}, and channel_probs has {probs[channel]:g} for {channel}")
    return probs[channel] if propensity is None else min(propensity, 1.0), probs


def _wrong(field: str, text: str) -> ArmError:
    return ArmError(f"{field}: {text}", field)


def _model(answer: Mapping[str, Any], known: Identity) -> Identity:
    given = answer.get("model")
    if given is None:
        return known
    if not isinstance(given, dict):
        raise _wrong("model", f"expected an object with name, version and digest, got {short(given)}")
    for key in NOBODY:
        if not isinstance(given.get(key), str | None):
            raise ArmError(f"model.{key}: expected text, got {short(given[key])}", "model")
    return {key: given.get(key) or known[key] for key in NOBODY}


def _numbers(
    answer: Mapping[str, Any], name: str, channels: Sequence[str], low: float = -math.inf, high: float = math.inf
) -> dict[str, float]:
    given = answer.get(name)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _wrong(name, f"expected an object of channel and number, got {short(given)}")
    if unknown := [channel for channel in given if channel not in channels]:
        raise _wrong(name, f"unknown channel {short(unknown[0])}; known: {', '.join(channels)}")
    return {channel: _checked(name, f"{name}.{channel}", value, low, high) for channel, value in given.items()}


def _number(answer: Mapping[str, Any], name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    value = answer.get(name)
    return None if value is None else _checked(name, name, value, low, high)


def _checked(field: str, place: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArmError(f"{place}: expected a number, got {short(value)}", field)
    if not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise ArmError(f"{place}: expected a number {limits}, got {short(value)}", field)
    return float(value)

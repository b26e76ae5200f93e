"""A decision in progress: its state, its record, and its answer."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import orjson
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from mtorl.experiment.arm import INCUMBENT, OVERRIDE, Arm
from mtorl.experiment.assignment import draw
from mtorl.experiment.experiment import Experiment
from mtorl.log import records
from mtorl.log.decision_ids import decision_id, time_of
from mtorl.log.times import SECOND_US, iso
from mtorl.policy.exploration import Choice, explore
from mtorl.policy.periods import FOREVER
from serving.router.flow.admission import Deadline
from serving.router.flow.arms import ArmAnswer, answer_of, identity
from serving.router.flow.features import ModelInput
from serving.router.flow.idempotency_cache import Answered, request_key
from serving.router.flow.requests import DecisionRequest
from serving.router.ops import tracing
from serving.router.ops.metrics import Stage

log = logging.getLogger(__name__)


@dataclass(eq=False)
class PendingDecision:
    """A decision on its way through the stages. If `fault` is set, the default action is taken.

    A thread must hold `lock` to change the decision, and must not change a `closed` decision.
    """

    request: DecisionRequest
    experiment: Experiment
    arm: str
    assignment_probability: float
    key: str | None  # of `idempotency_cache.request_key`
    decision_id: str
    deadline: Deadline
    features: ModelInput | None = None
    prices: Mapping[str, float] | None = None  # by paced channel
    answer: ArmAnswer | None = None
    exploration: records.Explored | None = None
    reserved: float | None = None  # reserved currency units
    budget_exhausted: bool = False
    fault: records.FallbackReason | None = None
    withdrawn: bool = False  # whether the record replaces an earlier one in the log
    may_be_reserved: bool = False  # whether money may be reserved without the ledger's confirmation
    previous: Answered | None = None  # earlier answer to the same request
    asking: tuple[Stage, str | None] | None = None  # stage in progress, and the part that must answer
    done: bool = False  # whether the decision is logged, or `previous` is repeated
    failed: tuple[records.FallbackReason, Exception] | None = None  # why the decision can't be logged
    taken_over: bool = False  # if true, the thread's results are ignored
    span: Span = field(default_factory=tracing.here)  # span of the request
    lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @classmethod
    def start(
        cls, request: DecisionRequest, experiment: Experiment, log_id: str, deadline: Deadline
    ) -> PendingDecision:
        """Begin a decision: assign the user to an arm.

        The decision's id contains `log_id`, so that a router recognises its own reservations after a crash.
        """
        user, campaign = request.user_id, request.campaign_id
        made, key = decision_id(user, log_id, campaign=campaign), request_key(user, campaign, request.request_id)
        return cls(request, experiment, *experiment.arm_of(user, campaign), key, made, deadline)

    @cached_property
    def override(self) -> bool:
        """Whether the experiment file sets this user's arm in `overrides`."""
        return self.experiment.overrides_arm_of(self.request.user_id, self.request.campaign_id)

    @cached_property
    def account(self) -> str:
        """The ledger's account for the arm's money, unique among all experiments."""
        return self.experiment.key(OVERRIDE if self.override else self.arm)

    def accept(self, answer: ArmAnswer) -> None:
        """Store the policy's answer, whose action exploration may replace."""
        self.answer, how = answer, self.policy.explore
        if how is None or not self.experiment.enabled:
            return
        own = Choice(answer.channel, answer.expose, answer.channel_probs, answer.exposure_probs)
        taken, explored = explore(own, how, self.request.candidates, self._draw("explore"))
        self.exploration = {
            "share": how.share,
            "scope": how.scope,
            "explored": explored,
            "channel": own.channel,
            "expose": own.expose,
            "channel_probs": dict(own.channel_probs),
            "exposure_probs": dict(own.exposure_probs),
        }
        self.answer = replace(answer, propensity=taken.channel_probs.get(taken.channel), **taken._asdict())
        if taken.channel != own.channel:
            self.answer = replace(
                self.answer,
                expected_reward=answer.expected_rewards.get(taken.channel),
                expected_cost=answer.expected_costs.get(taken.channel),
                price=answer.prices.get(taken.channel),
            )

    def pay(self, amount: float | None) -> None:
        """Store the reserved currency units; None if too little is left."""
        self.reserved, self.budget_exhausted = amount, amount is None

    def fall_back(self, reason: records.FallbackReason, why: Exception, cause: str | None = None) -> None:
        """Take the default action. `cause` (default: `reason`) is for the log line."""
        self.fault = reason
        self.reserved = None
        self.budget_exhausted = False
        self.deadline.late |= isinstance(why, TimeoutError)
        log.warning("default action, %s: %s: %s", reason, type(why).__name__, why, extra=self.ids(cause or reason))

    @property
    def closed(self) -> bool:
        """Whether threads may no longer change the decision."""
        return self.taken_over or self.failed is not None

    @property
    def complete(self) -> bool:
        """Whether no ad is shown, so that the decision can be logged as it is."""
        return not self.expose and (self.fault is not None or (self.answer is not None and not self.answer.expose))

    def take_over(self) -> bool:
        """Let the event loop finish the decision, unless it is done; returns `taken_over`."""
        with self.lock:
            self.taken_over = not self.done
        return self.taken_over

    @property
    def policy(self) -> Arm:
        """The arm whose policy answers: the user's arm, or the incumbent."""
        return self.experiment.arm(self.arm)

    @property
    def policy_answer(self) -> ArmAnswer | None:
        """The policy's answer; None if the decision takes the default action."""
        return None if self.fault else self.answer

    @property
    def chosen_channel(self) -> str | None:
        """The channel that the policy drew at random, before exploration."""
        if (answer := self.policy_answer) is None:
            return None
        channel, probs = answer.channel, answer.channel_probs
        if self.exploration is not None:
            channel, probs = self.exploration["channel"], self.exploration["channel_probs"]
        return channel if sum(probability > 0 for probability in probs.values()) > 1 else None

    @property
    def action(self) -> ArmAnswer:
        """The policy's answer or, after a fault, the default action.

        The default action is the request's baseline if there is one. Otherwise, no ad is shown.
        """
        if (answer := self.policy_answer) is not None:
            return answer
        if self.request.baseline is not None:
            return answer_of(self.request.baseline, self.request.candidates)
        usual, candidates = self.experiment.default_channel, self.request.candidates
        channel = usual if usual in candidates else candidates[0]
        return ArmAnswer(channel, False, 1.0, expected_reward=0.0, expected_cost=0.0)

    @property
    def expose(self) -> bool:
        """Whether the ad is shown, for which money must be reserved."""
        return self.reserved is not None

    def ids(self, cause: str) -> dict[str, Any]:
        """Fields of a log line about this decision."""
        return {
            "cause": cause,
            "experiment": self.experiment.name,
            "arm": self.arm,
            "decision_id": self.decision_id,
            "request_id": self.request.request_id,
        }

    def traits(self) -> dict[str, AttributeValue]:
        """Attributes of this decision for a span, without user, request data and money."""
        asked = {"decision_id": self.decision_id, "experiment": self.experiment.name, "arm": self.arm}
        fault = {} if self.fault is None else {"fallback_reason": self.fault}
        return {**asked, "channels": len(self.request.candidates), **fault}

    def item(self) -> dict[str, Any]:
        """Build the item for the arm. Its random number u is reproducible from logged fields."""
        asked = self.request
        return {
            "window": self.features.window if self.features else None,
            "u": self._draw("draw"),
            "user_id": asked.user_id,
            "campaign_id": asked.campaign_id,
            "timestamp": iso(asked.at),
            "context": asked.context,
            "candidates": asked.candidates,
            **({"costs": asked.costs} if asked.costs else {}),
            **({} if asked.baseline is None else {"baseline": asked.baseline}),
            **({} if self.prices is None else {"price": self.prices}),
        }

    def shadows(self) -> list[PendingDecision]:
        """Return copies of this decision for challengers at the stage `shadow`."""
        of = self.experiment
        if of.stage != "shadow" or not of.enabled or self.arm != INCUMBENT or self.override:
            return []
        blank: dict[str, Any] = {"answer": None, "exploration": None, "fault": None, "taken_over": False, "done": False}
        return [replace(self, arm=arm.name, **blank) for arm in of.arms if arm.name != INCUMBENT]

    def record(self) -> records.DecisionRecord:
        """Build the record for the decision log."""
        answer = self.answer
        fields = self._v1_answer()
        return {
            **fields,
            **self._history(),
            "schema_version": records.VERSION,
            "unit_hash": records.unit_hash(self.request.user_id),
            "user_id": self.request.user_id,
            "layer": self.experiment.layer,
            "salt": self.experiment.salt,
            "experiment_version": self.experiment.version,
            "shares": self.experiment.shares(),
            "assignment_probability": self.assignment_probability,
            "override": self.override,
            "stage": self.experiment.stage if self.experiment.enabled else "off",
            "model_name": answer.model["name"] if answer else None,
            "model_version": answer.model["version"] if answer else None,
            "model_digest": answer.model["digest"] if answer else None,
            "feature_hash": self._feature_hash(),
            "features_found": self.features is not None and self.features.has_history,
            "campaign_id": self.request.campaign_id,
            "context": self.request.context,
            "request_time": iso(self.request.at),
            "request_hash": self.request.content,
            "candidates": list(self.request.candidates),
            "costs": dict(self.request.costs),
            "baseline": self.request.baseline,
            "exploration": self.exploration,
            "drawn_channel": answer.channel if answer else None,
            "channel_probs": dict(answer.channel_probs) if answer else {},
            "exposure_probs": dict(answer.exposure_probs) if answer else {},
            "expected_rewards": dict(answer.expected_rewards) if answer else {},
            "expected_costs": dict(answer.expected_costs) if answer else {},
            "price": answer.price if answer else None,
            "prices": self._prices(answer) if answer else {},
            "state_distance": answer.state_distance if answer else None,
            "reserved": self.reserved or 0.0,
            "refused_until": self._refused_until(),
            "withdrawn": self.withdrawn,
            "latency_seconds": self.deadline.elapsed(),
            "event_time": datetime.now(UTC).isoformat(timespec="microseconds"),
        }

    def shadow_record(self) -> records.ShadowRecord:
        """Build the log record of a challenger's choice."""
        answer = self.answer
        return {
            "schema_version": records.VERSION,
            "shadow_id": f"{self.decision_id}.{self.arm}",
            "decision_id": self.decision_id,
            "experiment": self.experiment.name,
            "arm": self.arm,
            "fault": self.fault,
            "channel": answer.channel if answer else None,
            "expose": answer.expose if answer else None,
            "propensity": answer.propensity if answer else None,
            "exploration": self.exploration,
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

    def window_record(self) -> records.WindowRecord | None:
        """Build the record of the window; None without features."""
        if self.features is None:
            return None
        return {
            "schema_version": records.VERSION,
            "decision_id": self.decision_id,
            "unit_hash": records.unit_hash(self.request.user_id),
            "window": dict(self.features.window),
            "event_time": time_of(self.decision_id).isoformat(),
        }

    def prediction(self) -> dict[str, Any]:
        """Build the answer to the caller."""
        if self.previous is not None:
            return self.previous.answer
        model = self.policy_answer.model if self.policy_answer else None
        return {**self._v1_answer(), "model": model if model and identity(model) else None}

    def _v1_answer(self) -> records.V1Answer:
        action = self.action
        return {
            "decision_id": self.decision_id,
            "arm": self.arm,
            "channel": action.channel,
            "expose": self.expose,
            "propensity": action.propensity,
            "expected_reward": action.expected_reward,
            "expected_cost": action.expected_cost,
            "budget_exhausted": self.budget_exhausted,
            "fallback_reason": self.fault,
            "request_id": self.request.request_id,
            "experiment": self.experiment.name,
            "reservation_id": self.decision_id if self.expose else None,
        }

    def _draw(self, what: Literal["draw", "explore"]) -> float:
        asked, by = self.request, self.experiment
        return draw(by.name, by.salt, asked.user_id, asked.campaign_id, asked.request_id or self.decision_id, what)

    def _prices(self, answer: ArmAnswer) -> dict[str, float]:
        """Return channel -> price, from the policy or from pacing."""
        known = {} if answer.price is None else {answer.channel: answer.price}
        return dict(answer.prices) or {**(self.prices or {}), **known}

    def _history(self) -> records.History:
        if self.features is None:
            return {"static": None, "history_length": None, "last_channel": None, "last_time": None}
        window = self.features.window
        channels, last = window["prev_channel"], window["prev_timestamp"][-1]
        return {
            "static": window["static"],
            "history_length": len(channels) - channels.count(None),
            "last_channel": channels[-1],
            "last_time": None if last is None else iso(round(last)),
        }

    def _refused_until(self) -> str | None:
        """Return when an exhausted budget gets money again, if ever."""
        if not self.budget_exhausted:
            return None
        until = self.experiment.refused_until(self.request.campaign_id, self.action.channel, time.time())
        return None if until == FOREVER else iso(until * SECOND_US)

    def _feature_hash(self) -> str | None:
        if self.features is None:
            return None
        text = orjson.dumps([self.features.window, self.features.aggregates], option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(text, digest_size=8).hexdigest()

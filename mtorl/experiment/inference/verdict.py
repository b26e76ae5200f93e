"""Turns an experiment's figures into a verdict (ship, stop, futile, or not yet) with its reason.

    guardrail   one-sided always-valid bounds of the harm, compared with a margin                  `check_guardrail`
    futility    whether the wanted improvement can be ruled out                                    `rules_out`
    verdict     "srm" > waiting > "guardrail" > "ship" | "stop" > "futile" > "inconclusive"        `reach_verdict`
    several     one verdict for several challengers                                                `leading`

The experiment's `alpha` bounds the probability of *any* false verdict. It is split evenly between the challengers
(Bonferroni). With K guardrails, a challenger's part of `alpha` is divided into 9 + K equal shares (`ErrorShares`): nine
for the primary metric, and one for each guardrail that may falsely seem breached. The shares cover both cases:

    the challenger is not better   "ship" and "stop" are false. The interval of the primary metric misses the true lift
                                   (9 shares), or one of K guardrails falsely seems breached (K shares).
    the challenger is better       "stop" is false: the interval misses the true lift on one side (4.5 shares). "ship"
                                   is false if a guardrail is breached but seems to hold (`held`, 4.5 shares). One of
                                   the other K - 1 guardrails may falsely seem breached (K - 1 shares).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mtorl.experiment import messages
from mtorl.experiment.inference.sample_ratio import SRM_ALARM
from mtorl.experiment.inference.statistics import MIN_USERS, Lift, one_sided_width
from mtorl.runtime.message import Message

Token = Literal["ship", "stop", "futile", "inconclusive", "srm", "guardrail"]
_DECIDED: dict[str, Token] = {token: token for token in get_args(Token) if token != "inconclusive"}

# If the share of late outcomes differs between arms by more than this, late outcomes may explain the lift.
LATE_ALARM = 0.03
# If more than this share of users got decisions from two arms in a stage, the assignment is broken.
CROSSED_ALARM = 0.01

# Each guardrail gets one part of alpha, and the primary metric gets this number of parts.
_PRIMARY = 9
# Probability, over all looks, that a challenger with the wanted effect is called futile.
FUTILITY_BETA = 0.1

_LEADING: tuple[Token, ...] = ("srm", "ship", "inconclusive", "futile", "guardrail", "stop")


@dataclass(frozen=True)
class GuardrailCheck:
    """Bounds of the harm to one guardrail metric, compared with the allowed margin."""

    name: str
    harm: float
    lower: float
    upper: float
    margin: float
    state: Literal["breached", "held", "open"]


def breach(name: str, lower: float, margin: float) -> Message:
    """Return the message for a breached guardrail."""
    return messages.GUARDRAIL(metric=name.replace("_", " "), lower=lower, margin=margin)


@dataclass(frozen=True)
class Verdict:
    """The verdict about one challenger: a token for programs, and a reason for people."""

    reason: Message

    @property
    def token(self) -> Token:
        """Return the kind of verdict, which is "inconclusive" if the reason is no decision."""
        return _DECIDED.get(self.reason.code, "inconclusive")


class ErrorShares(NamedTuple):
    """The error rates for the comparison of one challenger with the incumbent."""

    # Probability that the interval of the primary metric misses the true lift.
    primary: float
    # Probability that a guardrail seems breached although it is not.
    breached: float
    # Probability that a guardrail seems to hold although it is breached.
    held: float

    @classmethod
    def of(cls, alpha: float, challengers: int, guardrails: int) -> "ErrorShares":
        """Return the error rates of each challenger."""
        one = alpha / (challengers * (_PRIMARY + guardrails))
        return cls(_PRIMARY * one, one, _PRIMARY * one / 2.0)


def check_guardrail(
    name: str, lift: Lift, *, direction: Literal["up", "down"], margin: float, shares: ErrorShares
) -> GuardrailCheck:
    """Compute bounds of a challenger's harm to one guardrail metric, and compare them with the margin.

    Args:
        margin: Largest accepted harm, in the metric's unit.
    """
    value = lift.value if direction == "down" else -lift.value
    below, above = (
        float(one_sided_width(lift.se, lift.effective_users, alpha=share)) for share in (shares.breached, shares.held)
    )
    lower, upper = value - below, value + above
    # With too few users, both bounds are NaN, and the state stays "open".
    state: Literal["breached", "held", "open"] = "open"
    if lower > margin:
        state = "breached"
    elif upper <= margin:
        state = "held"
    return GuardrailCheck(name, value, lower, upper, margin, state)


def rules_out(short_of_effect: Lift) -> bool:
    """Return whether the data show that a challenger's effect is smaller than the wanted effect.

    The answer is wrong with a probability of at most FUTILITY_BETA, over all looks.

    Args:
        short_of_effect: Challenger's metric minus the metric that it would have with the wanted effect.
    """
    se, users = short_of_effect.se, short_of_effect.effective_users
    width = float(one_sided_width(se, users, alpha=FUTILITY_BETA))
    return short_of_effect.value + width < 0.0


def reach_verdict(
    primary: Lift,
    *,
    srm_p: float,
    guardrails: Sequence[GuardrailCheck] = (),
    crossed_share: float = 0.0,
    late_gap: float = 0.0,
    unbalanced: str | None = None,
    hours: float = math.inf,
    min_hours: float = 0.0,
    with_changed: Lift | None = None,
    with_late: Lift | None = None,
    ruled_out: float | None = None,
    challenger: str = "challenger",
) -> Verdict:
    """Return the verdict about one challenger, by the first rule that applies.

    1. A sample ratio mismatch or another sign of a broken comparison makes every number invalid.
    2. Before the planned run time, there is no verdict, because behaviour may differ on a weekend.
    3. A breached guardrail is harm, at any gain.
    4. The always-valid interval of the primary metric decides. To ship, every guardrail must hold.

    Args:
        srm_p: P-value of the sample ratio mismatch.
        crossed_share: Share of users who were seen in two arms of one stage.
        late_gap: Difference of the arms' shares of late outcomes; 0 unless it is significant.
        unbalanced: Covariate by which the arms' users differ more than chance allows.
        hours: Run time in hours; each stage counts according to its weight in the lift.
        with_changed: Lift with the days of changes, if `primary` excludes them. Both lifts must lead to the same
            verdict.
        with_late: Lift with late outcomes. Both lifts must lead to the same verdict.
        ruled_out: Wanted relative effect, if it is ruled out.
    """
    low, high = primary.ci
    if srm_p < SRM_ALARM:
        return Verdict(messages.SRM(p=srm_p, alarm=SRM_ALARM))
    if crossed_share > CROSSED_ALARM:
        return Verdict(messages.NOT_STICKY(share=crossed_share))
    if unbalanced is not None:
        return Verdict(messages.UNBALANCED(covariate=unbalanced))
    if late_gap > LATE_ALARM:
        return Verdict(messages.LATE_GAP(gap=late_gap))
    # Allow one hour less, because in a week, the first and the last decision are less than a week apart.
    if hours <= min_hours - 1.0:
        return Verdict(messages.TOO_EARLY(hours=math.floor(hours), needed=min_hours))
    for check in guardrails:
        if check.state == "breached":
            return Verdict(breach(check.name, check.lower, check.margin))
    if not math.isfinite(primary.value):
        return Verdict(messages.NOT_EVALUABLE())
    if not math.isfinite(low):
        ours, theirs = map(math.floor, primary.arm_users)
        if min(ours, theirs) >= MIN_USERS:
            return Verdict(messages.NO_POSITIVE())
        return Verdict(messages.TOO_FEW_USERS(needed=MIN_USERS, challenger=challenger, users=ours, others=theirs))
    for other, message in ((with_changed, messages.CHANGED_DAYS), (with_late, messages.LATE_OUTCOMES)):
        if other is not None and not _agree(primary, other):
            low_with, high_with = other.ci
            return Verdict(message(low_with=low_with, high_with=high_with, low=low, high=high))
    if high < 0.0:
        return Verdict(messages.STOP(high=high))
    if low <= 0.0 and ruled_out is not None:
        return Verdict(messages.FUTILE(effect=100 * ruled_out, low=low, high=high))
    if low <= 0.0:
        return Verdict(messages.UNDECIDED(low=low, high=high))
    if still_open := [check.name for check in guardrails if check.state == "open"]:
        return Verdict(messages.GUARDRAILS_OPEN(metrics=", ".join(still_open)))
    return Verdict(messages.SHIP(low=low))


def _agree(one: Lift, other: Lift) -> bool:
    """Return whether two intervals lead to the same conclusion: above zero, below zero, or neither."""
    return all((a > 0.0) == (b > 0.0) for a, b in ((one.ci[0], other.ci[0]), (-one.ci[1], -other.ci[1])))


def leading(verdicts: Mapping[str, Verdict], lifts: Mapping[str, Lift]) -> str:
    """Return the challenger whose verdict becomes the verdict of the whole experiment.

    Challengers are ranked by their verdicts in the order of `_LEADING`, and then by their lifts.
    """

    def rank(challenger: str) -> tuple[int, float]:
        lift = lifts[challenger].value
        return -_LEADING.index(verdicts[challenger].token), lift if math.isfinite(lift) else -math.inf

    return max(verdicts, key=rank)

"""Turns an experiment's figures into a verdict (ship, stop, futile, or not yet) with its reason.

    guardrail   one-sided always-valid bounds of the harm against a margin                         `check_guardrail`
    futility    whether a challenger that is better by so much can be ruled out                    `rules_out`
    verdict     "srm" > waiting > "guardrail" > "ship" | "stop" > "futile" > "inconclusive"        `reach_verdict`
    several     one verdict for several challengers                                                `leading`

`alpha` of the experiment is the probability of *any* false verdict. Challengers share it evenly (Bonferroni). Of its
part a challenger's primary metric has nine shares, and each guardrail one, for a false breach (`ErrorShares`).
That a guardrail holds takes no further share, since nothing but "ship" rests on it:

    not better    "ship" and "stop" are errors of the primary's interval: with K guardrails, 9 + K shares in all
    better        "stop" is one, half as likely; "ship" is false if a broken guardrail seems to hold, with the
                  probability `held`, the other half; and K - 1 other guardrails may seem to be breached
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

CROSSED_ALARM = 0.01  # a salted hash moves nobody within a stage; more than stray cases: something else assigns
LATE_ALARM = 0.05  # difference of the arms' shares of late outcomes: a lift may be nothing else

_PRIMARY = 9  # shares of the primary metric beside one of each guardrail
FUTILITY_BETA = 0.1  # probability that a challenger which is as much better as wanted is ever called futile

_LEADING: tuple[Token, ...] = ("srm", "ship", "inconclusive", "futile", "guardrail", "stop")


@dataclass(frozen=True)
class GuardrailCheck:
    """Harm done to a guardrail metric, bounded from both sides, against the margin that was allowed.

    "breached": even the smallest plausible harm is above the margin. "held": even the largest is below it.
    "open": the data do not say yet, and nothing ships until they do.
    """

    name: str
    harm: float
    lower: float
    upper: float
    margin: float
    state: Literal["breached", "held", "open"]


def breach(name: str, lower: float, margin: float) -> Message:
    """A breached guardrail in one sentence; the metric is named as on the pages: "cost per decision"."""
    return messages.GUARDRAIL(metric=name.replace("_", " "), lower=lower, margin=margin)


@dataclass(frozen=True)
class Verdict:
    """A token for machines and one line for people."""

    reason: Message

    @property
    def token(self) -> Token:
        """The code of the reason if that decides; else the verdict waits."""
        return _DECIDED.get(self.reason.code, "inconclusive")


class ErrorShares(NamedTuple):
    """Error rates of one challenger's comparisons, so that all of them together err with probability alpha at most."""

    primary: float  # that the interval of the primary metric, both sides together, misses the lift
    breached: float  # of each guardrail: that it seems to be breached
    held: float  # that a guardrail seems to hold

    @classmethod
    def of(cls, alpha: float, challengers: int, guardrails: int) -> "ErrorShares":
        """The shares of each challenger."""
        one = alpha / (challengers * (_PRIMARY + guardrails))
        return cls(_PRIMARY * one, one, _PRIMARY * one / 2.0)


def check_guardrail(
    name: str, lift: Lift, *, direction: Literal["up", "down"], margin: float, shares: ErrorShares
) -> GuardrailCheck:
    """Bound the harm of the challenger on one guardrail metric, each side with its own error rate.

    The metric should go "up" or "down"; harm up to the margin, in its own unit and never negative, is accepted.
    """
    value = lift.value if direction == "down" else -lift.value
    below, above = (
        float(one_sided_width(lift.se, lift.effective_users, alpha=share)) for share in (shares.breached, shares.held)
    )
    lower, upper = value - below, value + above
    state: Literal["breached", "held", "open"] = "open"  # also where a width is NaN, for want of users
    if lower > margin:
        state = "breached"
    elif upper <= margin:
        state = "held"
    return GuardrailCheck(name, value, lower, upper, margin, state)


def rules_out(short_of_effect: Lift) -> bool:
    """Whether the challenger is not as much better as wanted, or that is bad luck of probability FUTILITY_BETA.

    `short_of_effect` is challenger minus incumbent, if the incumbent had the wanted effect, too. The bound is one-sided
    and always valid, so looking often does not raise the probability of giving up on a challenger that is worth it.
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
    ruled_out: float | None = None,
    challenger: str = "challenger",
) -> Verdict:
    """Turn the figures into one token. The rules are in order: where one applies, the later ones do not count.

    A mismatch of the arms makes every number void. Before the planned run time nothing else is said: the intervals
    allow for early looks, but not for a weekend that the experiment has not seen yet. Then a breached guardrail is harm
    whatever the gain, and the always-valid interval of the primary metric decides; a win ships only when every
    guardrail holds.

    Args:
        srm_p: p-value of the sample ratio mismatch.
        crossed_share: share of users who were seen in two arms of one stage.
        late_gap: difference of the arms' shares of outcomes, by value, that came too late to count.
        unbalanced: covariate by which the arms' users differ more than a draw would have it.
        hours: hours of which decisions count, by the weight of their stages.
        min_hours: hours that the experiment was planned to run at least.
        with_changed: the lift with the days on which the stage was changed or the kill switch used, if they are left
            out of the primary one. People do so on bad days, so that the others are too good; and the money of such a
            day is not the same in both arms. What either may have brought about is no verdict.
        ruled_out: the wanted effect, relative, if a challenger that has it can be ruled out (`rules_out`).
        challenger: its name, where its users are counted.
    """
    low, high = primary.ci
    if srm_p < SRM_ALARM:
        return Verdict(messages.SRM(p=srm_p, alarm=SRM_ALARM))
    if crossed_share > CROSSED_ALARM:
        return Verdict(messages.NOT_STICKY(share=crossed_share))
    if unbalanced is not None:
        return Verdict(messages.UNBALANCED(covariate=unbalanced))
    if late_gap > LATE_ALARM:
        return Verdict(messages.LATE_OUTCOMES(gap=late_gap))
    # From its first decision to its last, an experiment of a week has a few minutes less than a week.
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
    if with_changed is not None and not _agree(primary, with_changed):
        low_with, high_with = with_changed.ci
        return Verdict(messages.CHANGED_DAYS(low_with=low_with, high_with=high_with, low=low, high=high))
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
    """Whether neither interval says anything that the other one does not."""
    return all((a > 0.0) == (b > 0.0) for a, b in ((one.ci[0], other.ci[0]), (-one.ci[1], -other.ci[1])))


def leading(verdicts: Mapping[str, Verdict], lifts: Mapping[str, Lift]) -> str:
    """The challenger whose verdict is the experiment's: one that ships, else one that still may, by greatest lift."""

    def rank(challenger: str) -> tuple[int, float]:
        lift = lifts[challenger].value
        return -_LEADING.index(verdicts[challenger].token), lift if math.isfinite(lift) else -math.inf

    return max(verdicts, key=rank)

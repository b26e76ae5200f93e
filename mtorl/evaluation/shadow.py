"""Compares challengers that answer the same requests as the incumbent, but whose answers are only logged (shadows).

    rows = shadows("decision_log", spec, experiment, by=["device"])      # features.collect.experiment_decisions
    reports = shadow_report(rows, spec.channels, by=["device"])
    in_words(reports["challenger"])

The report shows how often the policies agree, and how much each would gain. Two choices agree if both expose the same
channel, or if neither exposes. The compared choices are made with the same random number and without exploration.

The value is the gain per decision of each policy if the challenger spends as much as the incumbent. It is estimated
off-policy (`gate.py`) from the outcomes of the incumbent's decisions. If all answers of the challenger contain
forecasts, the estimate is doubly robust. The estimate needs the probabilities of both policies and an incumbent that
explores; otherwise, `not_evaluable` contains the reason why there is no value. If a challenger's model was replaced,
only the decisions of the newest model are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from mtorl.arrays import Bools, Floats
from mtorl.evaluation import messages
from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.gate import refusal
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples, interval
from mtorl.evaluation.value_difference import ValueDifference, value_difference

LARGEST_SEGMENTS = 12


class Agreement(TypedDict):
    """Shares of the decisions at which two policies made the same choice."""

    same_channel: float
    same_exposure: float  # both policies expose, or neither does
    same_action: float  # both expose the same channel, or neither exposes
    same_action_ci: list[float]
    incumbent_exposes: float
    challenger_exposes: float


class Compared(TypedDict):
    """Comparison of a challenger with the incumbent on a set of decisions."""

    decisions: int  # decisions that both policies answered
    users: int
    agreement: Agreement | None
    valued: int  # decisions from which the value is estimated
    value: ValueDifference | None
    not_evaluable: str | None  # why `value` is None


class ShadowReport(Compared):
    """Report on one challenger that runs in the shadow of the incumbent."""

    arm: str
    model: str  # digest, or ""
    # fraction of all users that is compared
    users_share: float
    left_out: dict[str, int]  # number of decisions by reason
    not_valued: dict[str, int]  # number of decisions by reason
    # Decisions by pair of an incumbent's and a challenger's channel.
    channels: list[dict[str, Any]]
    # Column -> one entry per value of the column.
    segments: dict[str, list[dict[str, Any]]]


def shadow_report(
    rows: pd.DataFrame, channels: Sequence[str], by: Sequence[str] = (), seed: int = 0, resamples: int = 1000
) -> dict[str, ShadowReport]:
    """Compare the answers of each challenger with the incumbent's decisions on the same requests.

    Args:
        rows: One row per decision and challenger, in time order, with these columns.
            Challenger: arm, model, and fault (why the challenger did not answer, or None).
            User: user_id, and users_share (fraction of all users that are in the rows).
            Choices without exploration: incumbent_channel, incumbent_expose, challenger_channel, challenger_expose.
            Decision of the incumbent: decided (False if a default was used), drawn_channel, channel_probs,
            exposure_probs, exposed, gain, cost, and left_out (why the decision can't be used for the value, or None).
            Answer of the challenger: challenger_channel_probs, challenger_exposure_probs,
            challenger_expected_rewards, and challenger_expected_costs, each a list in the order of `channels`.
        by: Columns, such as "device", whose most frequent values are compared separately.
    """
    reports = {}
    for arm, of_arm in rows.groupby("arm", sort=True):
        answered = of_arm[of_arm["fault"].isna()]
        newest = str(answered["model"].iloc[-1]) if len(answered) else ""
        why = pd.Series(np.where(of_arm["decided"], "", "incumbent_fell_back"), of_arm.index)
        why = why.mask(of_arm["model"] != newest, "other_model").mask(of_arm["fault"].notna(), of_arm["fault"])
        both = of_arm[why == ""]
        whether = _not_valued(both)
        reports[str(arm)] = ShadowReport(
            arm=str(arm),
            model=newest,
            users_share=float(of_arm["users_share"].iloc[0]),
            left_out=_counts(why[why != ""]),
            not_valued=_counts(whether[whether != ""]),
            channels=_pairs(both),
            segments={
                name: [
                    {"segment": value, **_compared(rows, channels, seed, resamples)}
                    for value, rows in _segments(both, name)
                ]
                for name in by
            },
            **_compared(both, channels, seed, resamples),
        )
    return reports


def _segments(both: pd.DataFrame, name: str) -> Iterator[tuple[str | None, pd.DataFrame]]:
    for value in both[name].value_counts().index[:LARGEST_SEGMENTS]:
        yield str(value), both[both[name] == value]
    if len(unknown := both[both[name].isna()]):
        yield None, unknown


def _compared(both: pd.DataFrame, channels: Sequence[str], seed: int, resamples: int) -> Compared:
    whether = _not_valued(both)
    usable = both[whether == ""]
    value: ValueDifference | None = None
    reason: str | None
    if len(usable):
        value = _value(usable, channels, seed, resamples)
        reason = refusal(value)
    elif len(both):
        most = str(whether.mode()[0])
        reason = _WHY[most]() if most in _WHY else messages.NO_USABLE_DECISION(reason=most)
    else:
        reason = messages.NO_COMMON_DECISION()
    return Compared(
        decisions=len(both),
        users=int(both["user_id"].nunique()),
        agreement=_agreement(both, seed, resamples) if len(both) else None,
        valued=len(usable),
        value=value if reason is None else None,
        not_evaluable=reason,
    )


_UNSAID = "challenger_unsaid"
_WHY = {
    "no_probabilities": messages.NO_INCUMBENT_PROBABILITIES,
    "not_mature": messages.NOT_MATURE,
    _UNSAID: messages.NO_CHALLENGER_PROBABILITIES,
}


def _not_valued(both: pd.DataFrame) -> pd.Series[str]:
    """Return for each row why it can't be used to estimate the value, or ""."""
    reason: pd.Series[str] = both["left_out"].fillna("").astype(str)
    if both.empty:
        return reason
    probs_BC, expose_BC = _lists(both, "challenger_channel_probs"), _lists(both, "challenger_exposure_probs")
    said_B = (np.nansum(probs_BC, axis=1) > 0.999) & ~((np.nan_to_num(probs_BC) > 0) & np.isnan(expose_BC)).any(axis=1)
    return reason.mask((reason == "") & ~said_B, _UNSAID)


def _agreement(both: pd.DataFrame, seed: int, resamples: int) -> Agreement:
    ours_B, theirs_B = (both[f"{name}_expose"].to_numpy(dtype=bool) for name in ("incumbent", "challenger"))
    channel_B: Bools = (both["incumbent_channel"] == both["challenger_channel"]).to_numpy()
    exposure_B = ours_B == theirs_B
    action_B = exposure_B & (channel_B | ~ours_B)
    _, draws_RS = UserResamples(both["user_id"], resamples, seed).sums([action_B * 1.0, np.ones(len(both))])
    return Agreement(
        same_channel=float(channel_B.mean()),
        same_exposure=float(exposure_B.mean()),
        same_action=float(action_B.mean()),
        same_action_ci=interval(draws_RS[:, 0] / draws_RS[:, 1]) or [float("nan")] * 2,
        incumbent_exposes=float(ours_B.mean()),
        challenger_exposes=float(theirs_B.mean()),
    )


def _value(rows: pd.DataFrame, channels: Sequence[str], seed: int, resamples: int) -> ValueDifference:
    logged_BC, exposing_BC = _lists(rows, "channel_probs"), _lists(rows, "exposure_probs")
    channel_B = pd.Index(list(channels)).get_indexer(pd.Index(rows["drawn_channel"]))
    at = np.arange(len(rows)), channel_B
    exposed_B = rows["exposed"].to_numpy(dtype=bool)
    log = LoggedRows(
        channel_B,
        logged_BC[at],
        rows["gain"].to_numpy(dtype=float),
        rows["cost"].to_numpy(dtype=float),
        rows["user_id"].to_numpy(),
        Exposure(exposed_B, np.clip(exposing_BC[at], 0.0, 1.0), logged_BC * np.clip(exposing_BC, 0.0, 1.0)),
    )
    theirs = (_lists(rows, f"challenger_{name}") for name in ("channel_probs", "exposure_probs"))
    challenger, incumbent = PolicyOnLog.recorded(*theirs), PolicyOnLog.recorded(logged_BC, exposing_BC)
    return value_difference(challenger, incumbent, log, None, seed, _forecasts(rows), resamples)


def _forecasts(rows: pd.DataFrame) -> list[ExpectedOutcomes]:
    gain_BC, cost_BC = _lists(rows, "challenger_expected_rewards"), _lists(rows, "challenger_expected_costs")
    offered_BC = _lists(rows, "challenger_channel_probs") >= 0
    if (np.isnan(gain_BC) | np.isnan(cost_BC))[offered_BC].any():
        return []
    return [ExpectedOutcomes(np.nan_to_num(gain_BC), np.nan_to_num(cost_BC))]


def _lists(rows: pd.DataFrame, name: str) -> Floats:
    return np.array(rows[name].to_list(), dtype=np.float64).reshape(len(rows), -1)


def _counts(reasons: pd.Series[Any]) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in reasons.value_counts().sort_index().items()}


def _pairs(both: pd.DataFrame) -> list[dict[str, Any]]:
    pairs = both[["incumbent_channel", "challenger_channel"]].value_counts().reset_index()
    return [
        {"incumbent": str(ours), "challenger": str(theirs), "decisions": int(count)}
        for ours, theirs, count in pairs.itertuples(index=False)
    ]


def in_words(report: ShadowReport) -> list[str]:
    """Return the report in sentences, without its segments."""
    model = f" ({report['model'][:12]})" if report["model"] else ""
    size = f"{report['decisions']:,} decisions of {report['users']:,} users"
    lines = [f"{report['arm']}{model} against the incumbent: {size}"]
    if report["users_share"] < 1:
        lines.append(f"a sample: {report['users_share']:.1%} of the users (chosen by hash), with all their decisions")
    lines += [f"left out, {reason}: {count:,}" for reason, count in report["left_out"].items()]
    if agreement := report["agreement"]:
        low, high = agreement["same_action_ci"]
        lines += [
            f"the same action {agreement['same_action']:.1%} [{low:.1%}, {high:.1%}]: the same channel "
            f"{agreement['same_channel']:.1%}, both or neither expose {agreement['same_exposure']:.1%}",
            f"expose: incumbent {agreement['incumbent_exposes']:.1%}, "
            f"{report['arm']} {agreement['challenger_exposes']:.1%}",
        ]
    lines += [f"without a value, {reason}: {count:,}" for reason, count in report["not_valued"].items()]
    if value := report["value"]:
        (low, high), arm = value["difference_ci"], report["arm"]
        lines += [
            f"gain per decision: incumbent {value['incumbent']:.4f}, {arm} {value['challenger']:.4f} at the same "
            f"spend; difference {value['difference']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]",
            f"estimated from {value['rows']:,} decisions (effective sample size {value['ess']['challenger']:,.0f}); "
            f"{value['impossible']['challenger']:.1%} of its exposures are impossible in the log",
        ]
    else:
        lines.append(f"its value is not known: {report['not_evaluable']}")
    return lines

"""Computes the verdict on a period of the decision log, for the pipeline and the command line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring import messages
from monitoring.decision_log import DecisionLog, Period, PeriodError
from monitoring.verdict.segments import segment_lifts
from monitoring.verdict.verdict import verdict_from_log
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain
from mtorl.log.lake import Lake
from mtorl.runtime.message import prefixed


def verdict_of_period(
    lake: Lake | str,
    experiment: str,
    period: Period,
    gain: Gain | str,
    weights: str,
    budget: float,
    by: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compute the verdict from the decisions of a period.

    Args:
        gain: The gain, or its definition as YAML, such as "click" or "{click: 0.1, revenue: 1}".
        weights: Parquet file with `decision_id` and `weight` for a replay; "" for live traffic.
        budget: Budget of a replay in currency units per decision; 0 for live traffic.
        by: SQL of the columns by which the traffic is divided into segments.

    Returns:
        The result of `verdict_from_log`, with the key `segments` if `by` is given.

    Raises:
        PeriodError: The period has no decision, or the gain can't be parsed.
        ExperimentError: The experiment file is invalid.
        LogError: A file of the lake was deleted while it was read.
    """
    try:
        counts = Gain.of_text(gain) if isinstance(gain, str) else gain
    except ValueError as error:
        raise PeriodError(prefixed("gain", error)) from None
    log = DecisionLog.of(lake, period)
    if weights:
        log = replace(log, weights=pd.read_parquet(weights), budget_per_decision=budget or None)
    if not log.lake:
        raise PeriodError(messages.EMPTY_LAKE(lake=log.lake.place))
    spec = Experiment.load(experiment)
    if not log.holds_any():
        since, until = period.since or "the start", period.until or "now"
        raise PeriodError(messages.EMPTY_PERIOD(lake=log.lake.place, since=since, until=until))
    found = verdict_from_log(log, spec, counts)
    return {**found, "segments": dict(segment_lifts(log, spec, counts, by))} if by else found


def deciding_incumbent(lake: str, find: Callable[[str], Path | None]) -> tuple[str, str]:
    """Find the policy that took the incumbent's newest decision.

    Args:
        find: Function that returns the artifact folder of the model with a digest.

    Returns:
        The artifact folder and "". For a policy without an artifact, "" and the policy's name. Without a decision, two
        empty texts.
    """
    digest, policy = (DecisionLog.of(lake).newest_policy(INCUMBENT) if lake else None) or (None, "")
    folder = None if digest is None else find(digest)
    return ("", policy) if folder is None else (str(folder), "")

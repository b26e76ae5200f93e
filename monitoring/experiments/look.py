"""Reads the decision log for an experiment: verdict, evidence for the next stage, channels and money.

known = look(DecisionLog.in_folder(folder), experiment, gain, since, now)      # on a laptop and on a cluster alike
"""

from __future__ import annotations

from collections.abc import Sequence

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Spend
from monitoring.experiments.newest import newest_of
from monitoring.experiments.traffic import spend_of, traffic_of
from monitoring.experiments.view import Known
from monitoring.verdict.long_term import long_term_effect
from monitoring.verdict.stage_evidence import stage_evidence
from monitoring.verdict.verdict import verdict_from_log
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain


def look(
    log: DecisionLog,
    experiment: Experiment,
    gain: Gain,
    since: float,
    now: float,
    spend: Sequence[Spend] | None = None,
    budget_per_decision: float | None = None,
) -> Known | None:
    """All that the log says now; None: it holds no decision.

    Args:
        log: Of the whole experiment, shadows included.
        experiment: As it is in force.
        since: When its time at this stage began, seconds since 1970.
        spend: From a ledger; None: the log has to say it.
        budget_per_decision: Of a replay (`monitoring.verdict.verdict`).

    Raises:
        ExperimentError: A table that the verdict needs can't be used.
    """
    if not log.holds_any():
        return None
    verdict = verdict_from_log(log, experiment, gain, budget_per_decision=budget_per_decision)
    return Known(
        verdict=verdict,
        long_term=long_term_effect(log, experiment, gain),
        evidence=stage_evidence(log, experiment, gain, since, verdict),
        traffic=traffic_of(log, experiment),
        newest=newest_of(log, experiment, now),
        spend=spend_of(log, experiment, now) if spend is None else spend,
        looked=now,
        gain=gain,
    )


def unsupported(known: Known, challenger: str) -> str | None:
    """Why the log says nothing of a challenger, good or bad; None: it has decisions of it."""
    if known.problem is not None:
        return f"its log can't be read, so nobody knows whether it wins: {known.problem}"
    arms = {} if known.traffic is None else known.traffic["arms"]
    return None if challenger in arms else f"no decision of {challenger} is in the log"

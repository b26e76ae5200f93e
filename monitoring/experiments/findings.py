"""Reads the decision log for an experiment: verdict, evidence for the next stage, channels and money.

findings = findings_of(DecisionLog.of(lake), experiment, gain, since, now)      # on a laptop and on a cluster
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitoring import messages
from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Newest, Settled, Spend, Traffic
from monitoring.experiments.traffic import newest_of, spend_of, traffic_of
from monitoring.verdict.experiment_users import experiment_users
from monitoring.verdict.stage_evidence import stage_evidence
from monitoring.verdict.verdict import verdict_of
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import Evidence
from mtorl.log.gain import Gain
from mtorl.runtime.message import Message


@dataclass(frozen=True)
class Findings:
    """Results of reading the log of an experiment.

    Attributes:
        verdict: From `monitoring.verdict.verdict.verdict_of`; None: there is no decision yet.
        by_hand: Whether the experiment is a file. Without a ramp, a person sets the file's stage, which applies until
            the first move. An object begins as a draft, with or without a ramp.
    """

    verdict: dict[str, Any] | None = None
    evidence: Evidence | None = None  # for the present stage
    traffic: Traffic | None = None
    newest: Newest | None = None
    spend: Sequence[Spend] = ()
    in_force: bool | None = True  # whether routers apply the state that follows from file and history; None: unknown
    settled: Settled | None = None  # after a promotion: state of the incumbent's model server
    problem: str | None = None  # why the log or the file can't be read
    commands: Mapping[str, str] = field(default_factory=dict)  # the command for an action: `start`, `run`, `promote`
    by_hand: bool = True
    looked: float | None = None  # when the log was read, seconds since 1970; None: just now
    router_runs: bool | None = None  # None: unknown
    gain: Gain = field(default_factory=lambda: Gain.of_spec("gain"))


def findings_of(
    log: DecisionLog, experiment: Experiment, gain: Gain, since: float, now: float, spend: Sequence[Spend] | None = None
) -> Findings:
    """Read the log.

    Args:
        since: Start of the present stage, seconds since 1970.
        spend: Balances of a ledger; None: add up the costs in the log.
    """
    if not log.holds_any():
        return Findings(spend=spend or (), gain=gain, looked=now)
    with experiment_users(log, experiment, gain) as read:
        verdict = verdict_of(read, log, experiment, gain)
        evidence = stage_evidence(read.db, log, experiment, since, verdict)
        traffic, newest = traffic_of(read.db, log, experiment), newest_of(read.db, now)
        spent = spend_of(read.db, experiment, now) if spend is None else spend
    return Findings(
        verdict=verdict, evidence=evidence, traffic=traffic, newest=newest, spend=spent, looked=now, gain=gain
    )


def unsupported(findings: Findings, challenger: str) -> Message | None:
    """Reason why the log has no evidence about a challenger; None if it has decisions of the challenger."""
    if findings.problem is not None:
        return messages.LOG_UNKNOWN(fault=findings.problem)
    arms = {} if findings.traffic is None else findings.traffic["arms"]
    return None if challenger in arms else messages.NOT_IN_LOG(challenger=challenger)

"""Reads the decision log of an experiment, and computes its verdict, traffic, spend and evidence."""

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
    """Results of reading an experiment's log, and facts about its router and its model server.

    Attributes:
        verdict: Result of `verdict_of`; None if there is no decision yet.
        in_force: Whether all routers use the newest state; None if this is unknown.
        settled: Whether the incumbent's model server serves the promoted model.
        problem: Reason why the log or the experiment file can't be read.
        commands: Shell commands by action, such as `start` or `promote`.
        by_hand: Whether the experiment is a file and not a Kubernetes object.
        looked: When the log was read, in seconds since 1970. None means now.
        router_runs: Whether the local router runs; None if this is unknown.
    """

    verdict: dict[str, Any] | None = None
    evidence: Evidence | None = None
    traffic: Traffic | None = None
    newest: Newest | None = None
    spend: Sequence[Spend] = ()
    in_force: bool | None = True
    settled: Settled | None = None
    problem: str | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    by_hand: bool = True
    looked: float | None = None
    router_runs: bool | None = None
    gain: Gain = field(default_factory=lambda: Gain.of_spec("gain"))


def findings_of(
    log: DecisionLog, experiment: Experiment, gain: Gain, since: float, now: float, spend: Sequence[Spend] | None = None
) -> Findings:
    """Read the log and compute the verdict, the evidence for the next stage, the traffic and the spend.

    Args:
        since: Start of the present stage, in seconds since 1970.
        spend: Amounts that a ledger reports. With None, the costs in the log are added up.
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
    """Return why the log does not support the challenger's promotion; None if it does."""
    if findings.problem is not None:
        return messages.LOG_UNKNOWN(fault=findings.problem)
    arms = {} if findings.traffic is None else findings.traffic["arms"]
    return None if challenger in arms else messages.NOT_IN_LOG(challenger=challenger)

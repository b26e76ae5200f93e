"""What is known of an experiment on a laptop: its file, history and log, as one document.

    evidence = evidence_now(folder, served, since)       # for the ramp
    view = view_of(folder, time.time(), by=["device"])   # for people: `monitoring.experiments`

It reads; nothing that the router or the ramp has is changed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Spend, View
from monitoring.experiments.look import look
from monitoring.experiments.view import Known, experiment_view
from monitoring.verdict.segments import segment_lifts
from monitoring.verdict.stage_evidence import stage_evidence
from mtorl.experiment.arm import ALL_ARMS, HOLDOUT, OUTSIDE, OVERRIDE
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import Evidence, in_force
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.segments import check_segment, segment_sql
from mtorl.log.touchpoints import LogError
from mtorl.log.units import counted_gain
from mtorl.runtime.files import replacing
from pipelines.experiments.controller import state as state_in
from pipelines.experiments.folder import ExperimentFolder, named_by_router
from pipelines.experiments.state_log import readable_log
from serving.ledger import LedgerUnavailable, open_ledger
from serving.local.stack import runs

_REPLAY = "replay.parquet"
_PATIENCE = 1.0  # seconds that a ledger may take


def evidence_now(
    folder: ExperimentFolder,
    served: Experiment,
    since: float,
) -> Evidence | None:
    """What the router's log says, now.

    Args:
        folder: Where the experiment is.
        served: As it is in force.
        since: When its time at this stage began, seconds since 1970.

    Raises:
        LogError: It can't be read. That is not the same as a log that says nothing: nothing may follow from it.
    """
    with _opened(folder) as (log, spec, budget):
        return stage_evidence(log, served, spec.reward.gain, since, budget_per_decision=budget)


def known_now(folder: ExperimentFolder, served: Experiment, since: float, now: float) -> Known:
    """All that the router's log says, now; that it can't be read, as its `problem`.

    Args:
        folder: Where the experiment is.
        served: As it is in force.
        since: When its time at this stage began, seconds since 1970.
        now: Seconds since 1970.
    """
    try:
        return known_or_error(folder, served, since, now)
    except (ExperimentError, LogError, OSError) as error:
        return Known(problem=str(error))


def known_or_error(
    folder: ExperimentFolder, served: Experiment, since: float, now: float, by: Sequence[str] = ()
) -> Known:
    """`known_now`, with the effect by segment; what can't be read is raised.

    Raises:
        ExperimentError: A table that the verdict needs can't be used.
        LogError: The log can't be read, or a column can't tell segments apart.
    """
    with _opened(folder) as (log, spec, budget):
        for name in by:
            check_segment(spec, name)
        spend = _spend(folder, served)
        found = look(log, served, counted_gain(spec), since, now, spend, budget)
        if found is None:
            return Known(spend=spend or [], gain=counted_gain(spec), looked=now)
        if not by:
            return found
        values = {name: segment_sql(spec, name, "record") for name in by}
        segments = dict(segment_lifts(log, served, spec.reward.gain, values))
        return replace(found, verdict={**(found.verdict or {}), "segments": segments})


def keep_replay(folder: ExperimentFolder, weights: pd.DataFrame, budget_per_decision: float) -> None:
    """Say that the traffic is a replay of a log, for every look at it.

    Args:
        folder: Where the experiment is.
        weights: How much each decision counts, `decision_id` and `weight`.
        budget_per_decision: Currency units that either arm may spend on one (`monitoring.verdict.verdict`).
    """
    with replacing(folder.state / _REPLAY) as unfinished:
        weights.assign(budget=budget_per_decision).to_parquet(unfinished)


def view_of(
    folder: ExperimentFolder,
    now: float,
    by: Sequence[str] = (),
    known: Mapping[tuple[str, float], Known] | None = None,
) -> View:
    """All that is known. A file or a log that can't be read is part of it, as its `problem`.

    Args:
        folder: Where the experiment is.
        now: Seconds since 1970.
        by: Columns by whose segments the effect is asked for, too.
        known: What the log has just said, by version and start of the stage: it is not read again for that.

    Raises:
        ExperimentError: The file can't be used, and nothing is in force that could be shown instead.
        LogError: A column can't tell segments apart.
        HistoryError: The history can't be read.
    """
    events = folder.events()
    problem = None
    try:
        experiment, _ = state_in(folder)
    except ExperimentError as error:
        in_use = folder.last_in_force()
        if in_use is None:
            raise
        experiment, problem = in_use, str(error)
    stands = state_of(events, experiment)
    by_hand = experiment.ramp is None and stands.phase == "draft"
    served, since = experiment if by_hand else in_force(experiment, stands), stands.since or 0.0
    found = (known or {}).get((served.version, since), Known())
    if found.looked is None and (folder.state / "router.yaml").exists():
        try:
            found = known_or_error(folder, served, since, now, by)
        except (ExperimentError, LogError) as error:  # of the former, a table that the verdict needs
            if by and str(error).startswith("by:"):
                raise
            problem = problem or str(error)
    elif found.looked is None and stands.phase != "draft" and problem is None:
        problem = f"{folder.state}: no router has been started there: mtorl serve --experiment {folder.file}"
    found = replace(
        found,
        commands=_commands(folder, experiment),
        problem=problem,
        in_force=by_hand or folder.last_in_force() in (served, None),
        router_runs=runs(folder.state),
    )
    return experiment_view(experiment, events, found, now)


def _commands(folder: ExperimentFolder, experiment: Experiment) -> dict[str, str]:
    """What to type, by action."""
    move = f"mtorl experiment move {folder.file}"
    first = "shadow" if experiment.ramp is None else experiment.ramp.stages[0].stage
    return {
        "start": f"{move} {first}",
        "ramp": f"{move} STAGE",
        "resume": f"{move} on",
        "promote": f"{move} promoted",
        "rollback": f'{move} "rolled back"',
        "stop": f"{move} stopped",
        "run": f"mtorl experiment run {folder.file}",
        "serve": f"mtorl serve --experiment {folder.file}",
    }


def _spend(folder: ExperimentFolder, served: Experiment) -> list[Spend] | None:
    """What the router's ledger says of an experiment's budgets; None: it can't be asked."""
    where = named_by_router(folder.state, "ledger")
    if where is None or ("://" not in where and not Path(where).exists()):
        return None
    try:
        ledger = open_ledger(where, _PATIENCE)
        try:
            balances = ledger.balances()
        finally:
            ledger.close()
    except LedgerUnavailable:
        return None
    accounts = [*(arm.name for arm in served.arms), HOLDOUT, OVERRIDE]
    arms = {served.key(name): name for name in accounts} | {name: name for name in (ALL_ARMS, OUTSIDE)}
    return [
        Spend(
            arm=arms[balance.arm],
            campaign=balance.campaign,
            channel=balance.channel,
            period=balance.period,
            limit=balance.limit,
            spent=balance.spent,
            reserved=balance.reserved,
        )
        for balance in balances
        if balance.arm in arms
    ]


@contextmanager
def _opened(folder: ExperimentFolder) -> Iterator[tuple[DecisionLog, DatasetSpec, float | None]]:
    """The router's log, what it is about, and, of a replay, the budget of a decision."""
    import duckdb

    named = folder.dataset or named_by_router(folder.state, "dataset")
    if named is None:
        raise LogError(f"{folder.state}: no router has been started there: mtorl serve --experiment {folder.file}")
    try:
        spec = DatasetSpec.load(named)
        with readable_log(folder.state) as log:
            replay = folder.state / _REPLAY
            if not replay.exists():
                yield DecisionLog.in_folder(log), spec, None
                return
            weights = pd.read_parquet(replay)
            budget = float(weights["budget"].iloc[0]) if len(weights) else None
            yield DecisionLog.in_folder(log, weights=weights[["decision_id", "weight"]]), spec, budget
    except (duckdb.Error, SpecError) as error:
        raise LogError(f"{folder.state}: the log can't be read: {str(error).splitlines()[0]}") from None

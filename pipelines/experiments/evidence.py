"""Reads the evidence on an experiment on a laptop: from its file, its history, the router's log and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pandas as pd

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Spend, View
from monitoring.experiments.findings import Findings, findings_of
from monitoring.experiments.view import experiment_view
from monitoring.verdict.segments import segment_lifts
from mtorl.experiment.arm import ALL_ARMS, OUTSIDE, OVERRIDE
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import in_force
from mtorl.log.dataset import DatasetSpec, SpecError, counted_gain
from mtorl.log.lake import REPLAY, Lake
from mtorl.log.records import segment_sql
from mtorl.log.touchpoints import LogError
from mtorl.runtime.files import replacing
from mtorl.runtime.message import prefixed
from pipelines import messages
from pipelines.experiments.controller import state as state_in
from pipelines.experiments.folder import ExperimentFolder, named_by_router
from serving.ledger import open_ledger
from serving.ledger.contract import LedgerUnavailable
from serving.local.stack import runs

_PATIENCE = 1.0


def findings_or_problem(folder: ExperimentFolder, now: float) -> Findings:
    """Read the findings on the active experiment. If the log can't be read, `Findings.problem` has the reason."""
    experiment, stands = state_in(folder)
    try:
        return findings_or_error(folder, in_force(experiment, stands), stands.since or 0.0, now)
    except (ExperimentError, LogError, OSError) as error:
        return Findings(problem=prefixed("", error))


def findings_or_error(
    folder: ExperimentFolder, served: Experiment, since: float, now: float, by: Sequence[str] = ()
) -> Findings:
    """Read the findings on an experiment from the router's log.

    Args:
        by: Columns that define segments. The lift is also computed for each segment.

    Raises:
        LogError: The log or a column can't be used.
        ExperimentError: The budget table can't be used.
    """
    with _opened(folder) as (log, spec):
        values = {name: segment_sql(spec, name, "record") for name in by}
        found = findings_of(log, served, counted_gain(spec), since, now, _spend(folder, served))
        if not by or found.verdict is None:
            return found
        segments = dict(segment_lifts(log, served, spec.reward.gain, values))
        return replace(found, verdict={**found.verdict, "segments": segments})


def keep_replay(folder: ExperimentFolder, weights: pd.DataFrame, budget_per_decision: float) -> None:
    """Mark the router's log as a replay, so that verdicts use the given weights and budget.

    Args:
        weights: Table with `decision_id` and `weight`.
        budget_per_decision: Budget of each arm, in currency units per decision.
    """
    with replacing(Path(lake_of(folder.state)) / REPLAY) as unfinished:
        weights.assign(budget=budget_per_decision).to_parquet(unfinished)


def view_of(
    folder: ExperimentFolder,
    now: float,
    by: Sequence[str] = (),
    findings: Mapping[tuple[str, float], Findings] | None = None,
) -> View:
    """Build the document that the experiment's page shows. Its `problem` is set if the file or the log can't be read.

    Args:
        by: Columns that define segments. The lift is also computed for each segment.
        findings: Findings by experiment version and start of the stage. If there are any, the log is not read again.

    Raises:
        ExperimentError: The file is invalid, and there is no active experiment to describe instead.
        LogError: A column can't define segments.
    """
    events = folder.events()
    problem = None
    try:
        experiment, _ = state_in(folder)
    except ExperimentError as error:
        in_use = folder.last_in_force()
        if in_use is None:
            raise
        experiment, problem = in_use, prefixed("", error)
    stands = state_of(events, experiment)
    by_hand = experiment.ramp is None and stands.phase == "draft"
    served, since = experiment if by_hand else in_force(experiment, stands), stands.since or 0.0
    found = (findings or {}).get((served.version, since), Findings())
    if found.looked is None and (folder.state / "router.yaml").exists():
        try:
            found = findings_or_error(folder, served, since, now, by)
        except (ExperimentError, LogError) as error:
            if by and str(error).startswith("by:"):
                raise
            problem = problem or prefixed("", error)
    elif found.looked is None and stands.phase != "draft" and problem is None:
        problem = messages.NOT_STARTED(state=str(folder.state), file=folder.name)
    found = replace(
        found,
        commands=_commands(folder, experiment),
        problem=problem,
        in_force=by_hand or folder.last_in_force() in (served, None),
        router_runs=runs(folder.state),
    )
    return experiment_view(experiment, events, found, now)


def _commands(folder: ExperimentFolder, experiment: Experiment) -> dict[str, str]:
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
    accounts = [*(arm.name for arm in served.arms), OVERRIDE]
    arms = {served.key(name): name for name in accounts} | {name: name for name in (ALL_ARMS, OUTSIDE)}
    shown = ("campaign", "channel", "period", "limit", "spent", "reserved")
    return [
        cast(Spend, {"arm": arms[balance.arm], **{name: getattr(balance, name) for name in shown}})
        for balance in balances
        if balance.arm in arms
    ]


@contextmanager
def _opened(folder: ExperimentFolder) -> Iterator[tuple[DecisionLog, DatasetSpec]]:
    import duckdb

    named = folder.dataset or named_by_router(folder.state, "dataset")
    if named is None:
        raise LogError(messages.NOT_STARTED(state=str(folder.state), file=folder.name))
    try:
        spec = DatasetSpec.load(named)
        lake = lake_of(folder.state)
        log, replay = DecisionLog.of(lake), Path(lake) / REPLAY
        if replay.exists():
            weights = pd.read_parquet(replay)
            budget = float(weights["budget"].iloc[0]) if len(weights) else None
            log = replace(log, weights=weights[["decision_id", "weight"]], budget_per_decision=budget)
        yield log, spec
    except (duckdb.Error, SpecError) as error:
        fault = str(error).splitlines()[0]
        raise LogError(messages.LOG_FAULT(where=str(folder.state), fault=fault)) from None


def lake_of(place: str | Path) -> str:
    """Return the folder or URI of a lake.

    Args:
        place: A lake, or the state folder of the router that writes to the lake.

    Raises:
        LogError: `place` is neither a router's state folder nor a lake with decisions.
    """
    named = named_by_router(Path(place), "lake")
    if named is None and not Lake.open(place):
        raise LogError(messages.NO_STATE(place=place))
    return str(place) if named is None else named

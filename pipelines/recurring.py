"""The recurring runs of a Kubeflow Pipelines server, made to be what a schedule says.

    for change in apply(server, Schedule.load(path)):
        print(change.name, change.what)

Doing it twice changes nothing. KFP can't change a recurring run, only turn it on and off, so another one takes its
place, in an order in which a night is neither missed nor run twice, wherever it is cut off:

    the new one is made, turned off    cut off here, the old one goes on; the next call makes the new one again
    the old one is deleted             cut off here, the new one is off; the next call turns it on, and KFP then
                                       starts the run that has been due since the new one was made, if one was
    the new one is turned on

What KFP starts while both are there would count for both, so nothing is replaced within a minute of a time at which
something is due. Deleting leaves running runs alone (`ORPHAN`): by default Kubernetes would end them with it.

Which recurring runs are ours stands in their description, with a digest of what they were made of: KFP gives
neither labels nor everything back.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.kfp_errors import RequestError, ServerError, calling
from pipelines.schedule import RecurringRun, Schedule, kfp_cron, next_run, seconds_until_quiet
from pipelines.server import Server

_MARK = re.compile(r"Made by `mtorl pipeline schedule` of (\S+); content (\w+)\.")


@dataclass(frozen=True)
class Found:
    """A recurring run on the server.

    Attributes:
        owner: Name of the schedule that has made it; empty for another's.
        content: Digest of what it was made of; empty for another's.
        cron: Of six fields; empty if it has none.
    """

    name: str
    run_id: str
    owner: str
    content: str
    cron: str
    enabled: bool


@dataclass(frozen=True)
class Wanted:
    """A recurring run as the server is to have it."""

    entry: RecurringRun
    pipeline_id: str
    version_id: str
    parameters: dict[str, Any]

    @property
    def content(self) -> str:
        """Digest of all that can't be changed once it is made."""
        parts = [self.pipeline_id, self.version_id, kfp_cron(self.entry.cron), self.parameters]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Change:
    """What happens to a recurring run.

    Attributes:
        name: Of the recurring run.
        what: "was there", "made", "replaced", "turned on", "turned off" or "removed".
        next_run: When it runs next; None if it does not.
        wanted: What is to be there; None if nothing is.
        keep: What is there and stays.
        unfinished: What an earlier call has made and not turned on; deleted first.
        old: What is deleted last.
    """

    name: str
    what: str
    next_run: datetime | None = None
    wanted: Wanted | None = None
    keep: Found | None = None
    unfinished: tuple[Found, ...] = ()
    old: tuple[Found, ...] = field(default=())


def plan(server: Server, schedule: Schedule, now: datetime | None = None) -> list[Change]:
    """What would happen, in the order of the file, and then what would be removed.

    Args:
        server: Where the recurring runs are.
        schedule: What they are to be.
        now: The present, if not the clock's.

    Raises:
        RequestError: a pipeline or version is not on the server, a parameter is wrong, or a recurring run of that
            name was made by somebody else.
        ServerError: the server refuses.
    """
    there = _found(server)
    changes = []
    for entry in schedule.runs:
        wanted = _wanted(server, entry)
        same_name = [found for found in there if found.name == entry.name]
        if any(found.owner != schedule.name for found in same_name):
            raise RequestError(
                f"a recurring run {entry.name!r} is there that schedule {schedule.name!r} has not made: delete it, or "
                "give the entry another name"
            )
        due = next_run(entry.cron, schedule.zone, now or datetime.now(UTC)) if entry.enabled else None
        changes.append(_change(wanted, same_name, due))
    names = {entry.name for entry in schedule.runs}
    gone = [found for found in there if found.owner == schedule.name and found.name not in names]
    changes += [Change(found.name, "removed", old=(found,)) for found in gone]
    return changes


def apply(
    server: Server, schedule: Schedule, wait: Callable[[float], None] = time.sleep, now: datetime | None = None
) -> list[Change]:
    """Make the recurring runs of a server what a schedule says.

    Args:
        server: Where the recurring runs are.
        schedule: What they are to be.
        wait: Waits for some seconds; called once, if something is due within a minute that is replaced or removed.
        now: The present, if not the clock's.

    Returns:
        What has happened.

    Raises:
        RequestError: see `plan`; nothing has happened.
        ServerError: the server refuses, maybe in the middle; another call does the rest.
    """
    changes = plan(server, schedule, now)
    crons = [found.cron for change in changes for found in change.old if found.enabled]
    at = now or datetime.now(UTC)
    if seconds := max((seconds_until_quiet(cron, schedule.zone, at) for cron in crons), default=0.0):
        wait(seconds)
    for change in changes:
        try:
            with calling():
                _carry_out(server, schedule, change)
        except ServerError as error:
            raise ServerError(f"{change.name}: {error}; call this again: it finishes what is half done") from None
    return changes


def _change(wanted: Wanted, there: Sequence[Found], due: datetime | None) -> Change:
    name, enabled = wanted.entry.name, wanted.entry.enabled
    same = [found for found in there if found.content == wanted.content]
    others = tuple(found for found in there if found.content != wanted.content)
    # One that is off beside an older one is of a call that was cut off: when it is turned on, KFP would start what has
    # been due since, which the older one has started already.
    keep = next((found for found in same if found.enabled == enabled), same[0] if same and not others else None)
    if keep is None:
        what = "replaced" if others else "made"
        return Change(name, what, due, wanted, unfinished=tuple(same), old=others)
    rest = tuple(found for found in same if found != keep)
    what = "was there"
    if keep.enabled != enabled:
        what = "turned on" if enabled else "turned off"
    elif others or rest:
        what = "replaced"
    return Change(name, what, due, wanted, keep, unfinished=rest, old=others)


def _carry_out(server: Server, schedule: Schedule, change: Change) -> None:
    for found in change.unfinished:
        _delete(server, found)
    made = ""
    if change.wanted and not change.keep:
        made = _create(server, schedule, change.wanted, enabled=change.wanted.entry.enabled and not change.old)
    for found in change.old:
        _delete(server, found)
    if change.wanted and change.keep and change.keep.enabled != change.wanted.entry.enabled:
        _turn(server, change.keep.run_id, on=change.wanted.entry.enabled)
    elif change.wanted and made and change.old and change.wanted.entry.enabled:
        _turn(server, made, on=True)


def _wanted(server: Server, entry: RecurringRun) -> Wanted:
    try:
        uploaded = server.version(entry.pipeline, entry.version or "")
        parameters = server.typed_for(uploaded, entry.texts)
    except RequestError as error:
        raise RequestError(f"{entry.name}: {error}") from None
    return Wanted(entry, uploaded.pipeline_id, uploaded.version_id if entry.version else "", parameters)


def _found(server: Server) -> list[Found]:
    """All recurring runs of the namespace, the oldest first."""
    found: list[Found] = []
    token = ""
    while True:
        with calling():
            listed = server.client.list_recurring_runs(
                page_token=token, page_size=100, sort_by="created_at", namespace=server.namespace or None
            )
        for one in listed.recurring_runs or []:
            mark = _MARK.search(one.description or "")
            trigger = one.trigger.cron_schedule if one.trigger else None
            owner, content = mark.groups() if mark else ("", "")
            cron = (trigger.cron or "") if trigger else ""
            found.append(
                Found(one.display_name, one.recurring_run_id, owner, content, cron, enabled=one.status == "ENABLED")
            )
        if not (token := listed.next_page_token or ""):
            return found


def _create(server: Server, schedule: Schedule, wanted: Wanted, enabled: bool) -> str:
    import kfp_server_api as api

    # Not by the SDK's create_recurring_run: it asks for a version, and would pin it.
    pipeline = api.V2beta1PipelineVersionReference(
        pipeline_id=wanted.pipeline_id, pipeline_version_id=wanted.version_id or None
    )
    body = api.V2beta1RecurringRun(
        display_name=wanted.entry.name,
        description=f"Made by `mtorl pipeline schedule` of {schedule.name}; content {wanted.content}.",
        experiment_id=server.experiment_id(),
        pipeline_version_reference=pipeline,
        runtime_config=api.V2beta1RuntimeConfig(parameters=wanted.parameters),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=kfp_cron(wanted.entry.cron))),
        mode="ENABLE" if enabled else "DISABLE",
        max_concurrency="1",
        no_catchup=True,
    )
    made = server.client.recurring_runs.recurring_run_service_create_recurring_run(body)
    return str(made.recurring_run_id)


def _delete(server: Server, found: Found) -> None:
    server.client.recurring_runs.recurring_run_service_delete_recurring_run(found.run_id, propagation_policy="ORPHAN")


def _turn(server: Server, run_id: str, on: bool) -> None:
    turn = server.client.enable_recurring_run if on else server.client.disable_recurring_run
    turn(run_id)

"""Creates the recurring runs that a YAML file defines on a Kubeflow Pipelines server.

KFP can't change a recurring run, so `apply` replaces it. It recognises its own recurring runs by their description,
because KFP has no labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import FromList, StrictModel, Text, load_yaml
from pipelines.cluster.kfp_server import ServerError, find_pipeline, find_version, kfp_calls

KFP_EXPERIMENT = "mtorl"
"""The KFP experiment that groups this project's runs."""

_MARK = re.compile(r"Made by `mtorl pipeline schedule` of (\S+); content (\w+)\.")


def _cron(text: str) -> str:
    fields = text.split()
    # Reject a sixth field, because KFP would read the first field as seconds.
    if len(fields) != 5:
        raise ValueError(f"expected minute hour day month weekday, such as '0 3 * * *' for 03:00, got {text!r}")
    return " ".join(fields)


class RecurringRun(StrictModel):
    """A pipeline that a Kubeflow Pipelines server runs repeatedly. Runs never overlap; missed runs are not repeated."""

    name: Annotated[Text, Field(max_length=100)]
    """Name of the recurring run on the server. If the name is changed, another recurring run is created."""
    pipeline: Text
    """Name of an uploaded pipeline, such as mtorl-train."""
    cron: Annotated[Text, AfterValidator(_cron)]
    """Times of the runs as cron expression: minute, hour, day of the month, month, weekday (0 is Sunday), in the
    server's time zone."""
    parameters: Mapping[str, str | int | float | bool] = {}
    """Values of the pipeline's parameters, by name."""
    version: Text | None = None
    """Version of the pipeline, as `mtorl pipeline upload` prints it. By default, each run uses the newest version."""
    enabled: bool = True
    """false: the recurring run stays on the server but is paused."""


class Schedule(StrictModel):
    """The recurring runs on a Kubeflow Pipelines server, as input of `mtorl pipeline schedule FILE`."""

    name: Annotated[Text, Field(max_length=50, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    """Name of the schedule. Applying the file replaces or removes only recurring runs that a schedule with this name
    has created."""
    runs: Annotated[tuple[RecurringRun, ...], FromList]
    """The recurring runs."""

    @model_validator(mode="after")
    def _names_differ(self) -> Schedule:
        names = [run.name for run in self.runs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two runs have the name {twice[0]!r}")
        return self

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read a schedule from a file. Raises InputError if the file can't be read, or a field is wrong."""
        return load_yaml(cls, path, "a schedule of pipelines", InputError)


def apply(client: Any, schedule: Schedule) -> dict[str, str]:
    """Change the server's recurring runs so that they match a schedule.

    Returns:
        A dictionary from the name of each recurring run to its change, such as "created" or "unchanged".

    Raises:
        InputError: The server lacks a pipeline or version, or a recurring run of another creator has the name of
            one of the schedule's runs.
        ServerError: The server refused a change. Earlier changes are kept.
    """
    with kfp_calls():
        there = _recurring_runs(client)
        wanted = {run.name: _wanted(client, schedule, run) for run in schedule.runs}
    others = {one.display_name for one in there if _mark(one)[0] != schedule.name}
    if taken := sorted(others & wanted.keys()):
        raise InputError(
            f"the recurring run {taken[0]!r} exists, but schedule {schedule.name!r} did not create it. Delete it, or "
            "give the entry another name"
        )
    ours = [one for one in there if _mark(one)[0] == schedule.name]
    changes = {}
    for name, body in wanted.items():
        try:
            with kfp_calls():
                changes[name] = _apply(client, body, [one for one in ours if one.display_name == name])
        except ServerError as error:
            raise ServerError(f"{name}: {error}. Then run the command again to complete the changes") from None
    for one in ours:
        if one.display_name not in wanted:
            with kfp_calls():
                _delete(client, one)
            changes[one.display_name] = "removed"
    return changes


def _apply(client: Any, wanted: Any, there: Sequence[Any]) -> str:
    enabled = wanted.mode == "ENABLE"
    same = [one for one in there if _mark(one)[1] == _mark(wanted)[1]]
    # Recreate a replacement that an interrupted call has left disabled, because enabling it would repeat runs.
    keep = next((one for one in same if _is_on(one) == enabled or len(there) == 1), None)
    what = "unchanged"
    if keep is None:
        what = "replaced" if there else "created"
        wanted.mode = "ENABLE" if enabled and not there else "DISABLE"
        keep = client.recurring_runs.recurring_run_service_create_recurring_run(wanted)
    elif _is_on(keep) != enabled:
        what = "enabled" if enabled else "disabled"
    for one in there:
        if one is not keep:
            _delete(client, one)
    if _is_on(keep) != enabled:
        turn = client.enable_recurring_run if enabled else client.disable_recurring_run
        turn(keep.recurring_run_id)
    return what


def _wanted(client: Any, schedule: Schedule, run: RecurringRun) -> Any:
    """Build the recurring run. The SDK's `create_recurring_run` can't leave the pipeline's version open."""
    import kfp_server_api as api

    pipeline_id = find_pipeline(client, run.pipeline)
    if not pipeline_id:
        raise InputError(f"{run.name}: no pipeline {run.pipeline!r} on the server: mtorl pipeline upload FILE")
    version_id = find_version(client, pipeline_id, run.version) if run.version else None
    if run.version and not version_id:
        raise InputError(f"{run.name}: no version {run.version!r} of {run.pipeline!r} on the server")
    parameters = dict(run.parameters)
    content = json.dumps([pipeline_id, version_id, run.cron, parameters], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return api.V2beta1RecurringRun(
        display_name=run.name,
        description=f"Made by `mtorl pipeline schedule` of {schedule.name}; content {digest}.",
        experiment_id=client.create_experiment(KFP_EXPERIMENT).experiment_id,
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version_id
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
        # KFP's cron format begins with one more field, the seconds.
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=f"0 {run.cron}")),
        mode="ENABLE" if run.enabled else "DISABLE",
        max_concurrency="1",
        no_catchup=True,
    )


def _recurring_runs(client: Any) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        page = client.list_recurring_runs(
            page_token=token, page_size=100, sort_by="created_at", namespace=client.get_user_namespace() or None
        )
        found += page.recurring_runs or []
        if not (token := page.next_page_token or ""):
            return found


def _mark(one: Any) -> tuple[str, str]:
    """Return the creating schedule's name and the settings' digest, or ("", "")."""
    found = _MARK.search(one.description or "")
    return (found[1], found[2]) if found else ("", "")


def _is_on(one: Any) -> bool:
    return bool(one.status == "ENABLED")


def _delete(client: Any, one: Any) -> None:
    # By default, Kubernetes would also stop active runs.
    service = client.recurring_runs
    service.recurring_run_service_delete_recurring_run(one.recurring_run_id, propagation_policy="ORPHAN")

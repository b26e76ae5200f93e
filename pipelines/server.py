"""A Kubeflow Pipelines server: upload a compiled pipeline, start a run, and see how it goes.

    server = Server.connect(endpoint, namespace, token)
    uploaded = server.upload(Path("manifests/pipelines/mtorl-train.yaml"))
    run = server.start(uploaded, {"source": "/mnt/mtorl/touchpoints.parquet", "dataset": "my-log.yaml"})
    print(server.look(run))

All of it is `kfp.Client`; what is added is that uploading twice makes no second version, that parameters are checked
before a run starts, and why a step waits or has failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from pipelines.kfp_errors import RequestError, ServerAway, ServerError, calling
from pipelines.run_state import ENDED, RunState, StepState, failed_attempts, reason_in, step_in, step_states
from pipelines.version_name import version_name
from pipelines.waiting import waiting_steps

__all__ = ["RequestError", "Server", "ServerError", "Uploaded", "pipeline_name", "typed"]

_EXPERIMENT = "mtorl"  # of KFP: a group of runs
_SECONDS = (10, 60)  # for a connection, and for an answer
_NO_LOG = (400, 404, 500)  # what KFP answers of a log whose pod is gone
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Uploaded:
    """A version of a pipeline on the server.

    Attributes:
        pipeline: Name of the pipeline.
        version: Name of the version: it follows from the file's content.
        new: Whether it was not there before.
    """

    pipeline: str
    pipeline_id: str
    version: str
    version_id: str
    new: bool = False


class Server:
    """A connection to the server, and the namespace whose runs it is about.

    Attributes:
        client: A `kfp.Client`.
        namespace: Of the runs; empty where KFP has no users of its own.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    @classmethod
    def connect(cls, endpoint: str, namespace: str, token: str) -> Server:
        """Connect as the KFP SDK does: what is empty comes from its own environment variables, files and kubeconfig.

        Raises:
            ServerError: nobody answers there.
        """
        with calling(endpoint):
            from kfp import Client

            client = Client(host=endpoint or None, namespace=namespace or "kubeflow", existing_token=token or None)
            _limit_time(client)
            return cls(client, namespace or client.get_user_namespace() or "")

    def upload(self, path: Path) -> Uploaded:
        """Upload a compiled pipeline, unless this content is there already.

        Raises:
            RequestError: the file is no compiled pipeline.
            ServerError: the server refuses.
        """
        name = pipeline_name(path)
        version = version_name(name, path.read_bytes())
        with calling():
            pipeline_id = self._find_pipeline(name) or self._create_pipeline(name)
            for found in self._versions(pipeline_id):
                if found.display_name == version:
                    return Uploaded(name, pipeline_id, version, found.pipeline_version_id)
            made = self.client.upload_pipeline_version(str(path), version, pipeline_id=pipeline_id)
            return Uploaded(name, pipeline_id, version, made.pipeline_version_id, new=True)

    def newest(self, name: str) -> Uploaded:
        """The version of a pipeline that was uploaded last.

        Raises:
            RequestError: there is none.
            ServerError: the server refuses.
        """
        return self.version(name)

    def version(self, name: str, version: str = "") -> Uploaded:
        """A version of a pipeline.

        Args:
            name: Of the pipeline.
            version: Name of the version, as `upload` says it; empty for the one that was uploaded last.

        Raises:
            RequestError: there is none.
            ServerError: the server refuses.
        """
        with calling():
            pipeline_id = self._find_pipeline(name)
            versions = self._versions(pipeline_id) if pipeline_id else []
        if not pipeline_id or not versions:
            raise RequestError(f"no pipeline {name!r} on the server: mtorl pipeline upload FILE")
        found = [one for one in versions if version in ("", one.display_name)]
        if not found:
            raise RequestError(f"no version {version!r} of {name!r}; the newest is {versions[0].display_name!r}")
        return Uploaded(name, pipeline_id, found[0].display_name, found[0].pipeline_version_id)

    def start(self, uploaded: Uploaded, parameters: Mapping[str, str]) -> str:
        """Start a run.

        Args:
            uploaded: What to run.
            parameters: Values as text, by name.

        Returns:
            The run's id.

        Raises:
            RequestError: a parameter is unknown, missing, or not of its type.
            ServerError: the server refuses, or its answer is lost: then there may be a run.
        """
        values = self.typed_for(uploaded, parameters)
        with calling():
            group = self.experiment_id()
        name = f"{uploaded.pipeline} {datetime.now():%Y-%m-%d %H:%M:%S}"
        try:
            with calling():
                run = self.client.run_pipeline(
                    group, name, params=values, pipeline_id=uploaded.pipeline_id, version_id=uploaded.version_id
                )
        except ServerAway as error:
            raise ServerAway(
                f"{error}. Whether it has started the run {name!r} is not known: `mtorl pipeline status` lists it then"
            ) from None
        return str(run.run_id)

    def typed_for(self, uploaded: Uploaded, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Parameters of a version of a pipeline in their own types.

        Raises:
            RequestError: a parameter is unknown, missing, or not of its type.
            ServerError: the server refuses.
        """
        with calling():
            spec = self.client.get_pipeline_version(uploaded.pipeline_id, uploaded.version_id).pipeline_spec
        return typed(parameters, spec.get("pipeline_spec", spec))

    def experiment_id(self) -> str:
        """KFP's group of the runs of this project; made when it is not there."""
        made = self.client.create_experiment(_EXPERIMENT, namespace=self.namespace or None)
        return str(made.experiment_id)

    def stop(self, run_id: str) -> None:
        """End a run.

        Raises:
            ServerError: there is no such run, or the server refuses.
        """
        with calling():
            self.client.terminate_run(run_id)

    def runs(self, count: int) -> list[RunState]:
        """The newest runs, without their steps."""
        with calling():
            listed = self.client.list_runs(page_size=count, sort_by="created_at desc", namespace=self.namespace or None)
            return [_run_state(run) for run in listed.runs or []]

    def look(self, run_id: str) -> RunState:
        """How far a run is, step by step.

        Raises:
            ServerError: there is no such run, or the server refuses.
        """
        run, tasks = self.run_with_tasks(run_id)
        reasons = {} if run.state in ENDED else waiting_steps(run_id, self.namespace)
        for node in failed_attempts(tasks):
            log = self.log(run_id, node)
            reasons[step_in(log)] = reason_in(log)
        return _run_state(run, tuple(step_states(tasks, reasons)))

    def run_with_tasks(self, run_id: str) -> tuple[Any, list[Any]]:
        """A run as the API gives it, and its tasks.

        Raises:
            ServerError: there is no such run, or the server refuses.
        """
        with calling():
            run = self.client.get_run(run_id)
        return run, list((run.run_details.task_details if run.run_details else None) or [])

    def log(self, run_id: str, node: str) -> str:
        """What an attempt of a step has printed; empty if it can't be had.

        Args:
            run_id: The run.
            node: Of the attempt, as KFP's tasks name it.

        Raises:
            ServerError: the server refuses, or is away.
        """
        from kfp_server_api import ApiException

        with calling():
            try:
                answer = self.client.runs.api_client.call_api(
                    "/apis/v1alpha1/runs/{run}/nodes/{node}/log",
                    "GET",
                    {"run": run_id, "node": node},
                    response_type="str",
                    auth_settings=["Bearer"],
                    _return_http_data_only=True,
                )
            except ApiException as error:
                if error.status in _NO_LOG:
                    return ""
                raise
            return str(answer or "")

    def _find_pipeline(self, name: str) -> str:
        same_name = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        listed = self.client.list_pipelines(
            filter=json.dumps({"predicates": [same_name]}), namespace=self.namespace or None
        )
        return str(listed.pipelines[0].pipeline_id) if listed.pipelines else ""

    def _create_pipeline(self, name: str) -> str:
        from kfp_server_api import V2beta1Pipeline

        # Without a version: the SDK would give the first one the pipeline's own name.
        pipeline = V2beta1Pipeline(display_name=name, namespace=self.namespace or None)
        made = self.client.pipelines.pipeline_service_create_pipeline(pipeline)
        return str(made.pipeline_id)

    def _versions(self, pipeline_id: str) -> list[Any]:
        """The newest hundred, the newest first."""
        listed = self.client.list_pipeline_versions(pipeline_id, page_size=100, sort_by="created_at desc")
        return list(listed.pipeline_versions or [])


def _limit_time(client: Any) -> None:
    """Let no call wait for ever on a server that has accepted it and is gone: the SDK itself sets no limit."""
    rest = client.runs.api_client.rest_client
    request = rest.request

    def limited(*arguments: Any, **more: Any) -> Any:
        return request(*arguments, **{**more, "_request_timeout": more.get("_request_timeout") or _SECONDS})

    rest.request = limited


def typed(parameters: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a pipeline in their own types.

    Args:
        parameters: Values as text, by name.
        spec: The compiled pipeline.

    Raises:
        RequestError: a parameter is unknown, missing, or not of its type.
    """
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(set(parameters) - set(known)):
        raise RequestError(f"no parameter {unknown[0]!r}; the pipeline has {', '.join(sorted(known))}")
    if missing := [name for name, d in known.items() if not d.get("isOptional") and name not in parameters]:
        raise RequestError(f"parameters that this pipeline can't do without: {', '.join(missing)}")
    return {name: _typed(name, text, known[name]["parameterType"]) for name, text in parameters.items()}


def _typed(name: str, text: str, kind: str) -> Any:
    try:
        match kind:
            case "NUMBER_INTEGER":
                return int(text)
            case "NUMBER_DOUBLE":
                return float(text)
            case "BOOLEAN":
                return _BOOLEANS[text.lower()]
        return text
    except (ValueError, KeyError):
        words = {"NUMBER_INTEGER": "a whole number", "NUMBER_DOUBLE": "a number", "BOOLEAN": "true or false"}
        raise RequestError(f"parameter {name}: expected {words[kind]}, got {text!r}") from None


def pipeline_name(path: Path) -> str:
    """The name of a compiled pipeline.

    Raises:
        RequestError: the file is none.
    """
    try:
        spec = next(yaml.safe_load_all(path.read_text()))
        return str(spec["pipelineInfo"]["name"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise RequestError(f"{path}: not a compiled pipeline; mtorl pipeline compile writes them") from None


def _run_state(run: Any, steps: tuple[StepState, ...] = ()) -> RunState:
    return RunState(run.run_id, run.display_name, run.state or "PENDING", run.created_at, steps)

"""Uploads pipelines to a Kubeflow Pipelines server through the KFP SDK."""

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtorl.runtime.errors import InputError


class ServerError(RuntimeError):
    """Raised if the server can't be reached or refuses a call."""


@dataclass(frozen=True)
class Uploaded:
    """An uploaded version of a pipeline.

    Attributes:
        version: Name of the version, which contains a hash of the file.
        new: False if the server already had this version.
    """

    version: str
    new: bool


def connect(endpoint: str, namespace: str, token: str) -> Any:
    """Connect to a Kubeflow Pipelines server, and return the `kfp.Client`.

    Raises:
        ServerError: The server does not answer, is no Kubeflow Pipelines server, or needs a namespace.
    """
    with kfp_calls(endpoint):
        from kfp import Client

        client = Client(host=endpoint or None, namespace=namespace or "kubeflow", existing_token=token or None)
        multi_user = client.get_kfp_healthz(sleep_duration=1).multi_user
    # A proxy has answered with its login page.
    if multi_user is None:
        raise ServerError(
            f"{endpoint or 'the endpoint that the KFP SDK has found'}: the answer is not from Kubeflow Pipelines. "
            f"Check --endpoint; or {_NEW_TOKEN}"
        )
    if multi_user and not client.get_user_namespace():
        raise ServerError("the server needs a namespace: name yours with --namespace or $KFP_NAMESPACE")
    return client


def upload(client: Any, path: Path) -> Uploaded:
    """Upload a compiled pipeline, unless the server already has a version with the same content."""
    name = pipeline_name(path)
    version = f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    with kfp_calls():
        pipeline_id = find_pipeline(client, name) or _create_pipeline(client, name)
        if find_version(client, pipeline_id, version):
            return Uploaded(version, new=False)
        client.upload_pipeline_version(str(path), version, pipeline_id=pipeline_id)
    return Uploaded(version, new=True)


def pipeline_name(path: Path) -> str:
    """Read the name of a compiled pipeline. Raises InputError for another kind of file."""
    try:
        spec = next(yaml.load_all(path.read_text(), yaml.CSafeLoader))
        return str(spec["pipelineInfo"]["name"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise InputError(f"{path}: not a compiled pipeline. Write one with mtorl pipeline compile") from None


def find_pipeline(client: Any, name: str) -> str:
    """Return the id of the pipeline with the given name, or "".

    This replaces the SDK's `get_pipeline_id`, which ignores the namespace.
    """
    found = client.list_pipelines(filter=_named(name), namespace=client.get_user_namespace() or None).pipelines
    return str(found[0].pipeline_id) if found else ""


def find_version(client: Any, pipeline_id: str, version: str) -> str:
    """Return the id of the pipeline version with the given name, or ""."""
    found = client.list_pipeline_versions(pipeline_id, filter=_named(version)).pipeline_versions
    return str(found[0].pipeline_version_id) if found else ""


@contextmanager
def kfp_calls(endpoint: str = "") -> Iterator[None]:
    """Hide the SDK's output during the block, and convert its errors into a ServerError."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except ApiException as error:
        raise ServerError(_explained(error)) from None
    # The SDK raises TimeoutError after five failed health checks.
    except (HTTPError, TimeoutError) as error:
        where = endpoint or "the endpoint that the KFP SDK has found"
        raise ServerError(
            f"{where}: Kubeflow Pipelines does not answer ({type(error).__name__}). "
            "Check --endpoint or $KFP_ENDPOINT, and that the port is open"
        ) from None
    finally:
        logging.disable(disabled)


_NEW_TOKEN = (
    "the token ($KFP_EXISTING_TOKEN) may have expired; create a new one: "
    "kubectl -n NAMESPACE create token default-editor --audience pipelines.kubeflow.org"
)
_HINTS = {401: f"{_NEW_TOKEN}. ", 403: f"check --namespace; or {_NEW_TOKEN}. "}
_SHOWN = 300


def _explained(error: Any) -> str:
    try:
        body = json.loads(error.body)
        text = str(body.get("message") or body.get("error") or error.body)
    except (TypeError, ValueError):
        text = str(error.body or error.reason)
    hint = _HINTS.get(error.status, "")
    return f"status {error.status}: {hint}Message of the server: {' '.join(text.split())[:_SHOWN]}"


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _create_pipeline(client: Any, name: str) -> str:
    """Create a pipeline without a version, which the SDK's `upload_pipeline` can't do."""
    from kfp_server_api import V2beta1Pipeline

    pipeline = V2beta1Pipeline(display_name=name, namespace=client.get_user_namespace() or None)
    return str(client.pipelines.pipeline_service_create_pipeline(pipeline).pipeline_id)

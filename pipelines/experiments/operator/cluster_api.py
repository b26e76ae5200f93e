"""Requests to the API server: experiments, what routers read, events that people read, and model servers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from pipelines.experiments.api import GROUP, KIND, PLURAL, VERSION, Conflict, Object

log = logging.getLogger(__name__)
_KSERVE = ("serving.kserve.io", "v1beta1")
_SECONDS = (2.0, 3.0)  # for a connection, and for an answer; the client ignores a single float
_WEBHOOK_SECONDS = (2.0, 12.0)  # KServe checks what is written, and is given ten seconds for it
Result = TypeVar("Result")


class ClusterApi:
    """The API server, for one namespace.

    Args:
        namespace: Whose experiments.
        config_map: Name of the ConfigMap with what is in force.
    """

    def __init__(self, namespace: str, config_map: str) -> None:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()  # of a person who tries it out, or of a test
        known = client.Configuration.get_default_copy()
        known.retries = 0  # who asks tries again, and says so
        client.Configuration.set_default(known)
        self.namespace = namespace
        self._config_map = config_map
        self._client = client.ApiClient()
        self._experiments = client.CustomObjectsApi(self._client)
        self._core = client.CoreV1Api(self._client)

    def experiments(self) -> list[Object]:
        """All experiments, the oldest first."""
        found = _answered(
            lambda: self._experiments.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, _request_timeout=_SECONDS
            )
        )
        return sorted(found["items"], key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))

    def experiment(self, name: str) -> Object | None:
        """An experiment as it is now; None: there is none of that name."""
        return _or_none(
            lambda: self._experiments.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=_SECONDS
            )
        )

    def replace_status(self, found: Mapping[str, Any]) -> Object:
        """Write an experiment's status; returns the object as it is then.

        Raises:
            Conflict: Its `resourceVersion` is another one, or it is gone.
        """
        written: Object = _or_conflict(
            lambda: self._experiments.replace_namespaced_custom_object_status(
                GROUP, VERSION, self.namespace, PLURAL, found["metadata"]["name"], found, _request_timeout=_SECONDS
            )
        )
        return written

    def in_force(self) -> Object | None:
        """The ConfigMap that the routers read; None: there is none yet."""
        found = _or_none(
            lambda: self._core.read_namespaced_config_map(self._config_map, self.namespace, _request_timeout=_SECONDS)
        )
        return None if found is None else self._plain(found)

    def put_in_force(self, config_map: Mapping[str, Any]) -> Object:
        """Write it; returns it as it is then.

        Raises:
            Conflict: It has another `resourceVersion` now; or it has none, and there is one already.
        """
        metadata = {**config_map["metadata"], "name": self._config_map}
        body = {**config_map, "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        if "resourceVersion" in metadata:
            written = _or_conflict(
                lambda: self._core.replace_namespaced_config_map(
                    self._config_map, self.namespace, body, _request_timeout=_SECONDS
                )
            )
        else:
            written = _or_conflict(
                lambda: self._core.create_namespaced_config_map(self.namespace, body, _request_timeout=_SECONDS)
            )
        return self._plain(written)

    def say(self, found: Mapping[str, Any], reason: str, message: str, warning: bool = False) -> None:
        """Write an event about an experiment, for `kubectl describe`; without it, the history says the same."""
        now = datetime.now(UTC)
        metadata = found["metadata"]
        body = client.EventsV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{metadata['name']}-", namespace=self.namespace),
            event_time=now,
            reporting_controller=f"{GROUP}/operator",
            reporting_instance="mtorl-operator",
            action=reason,
            reason=reason,
            type="Warning" if warning else "Normal",
            note=message.encode()[:1000].decode(errors="ignore"),
            regarding=client.V1ObjectReference(
                api_version=f"{GROUP}/{VERSION}",
                kind=KIND,
                name=metadata["name"],
                namespace=self.namespace,
                uid=metadata["uid"],
            ),
        )
        try:
            client.EventsV1Api(self._client).create_namespaced_event(self.namespace, body, _request_timeout=_SECONDS)
        except (ApiException, HTTPError) as error:
            log.warning("an event could not be written: %s", str(error).splitlines()[0])

    def inference_service(self, name: str) -> Object | None:
        """An InferenceService as it is now; None: there is none of that name.

        Raises:
            PermissionError: We may not read it.
        """
        return _permitted(
            lambda: _or_none(
                lambda: self._experiments.get_namespaced_custom_object(
                    *_KSERVE, self.namespace, "inferenceservices", name, _request_timeout=_SECONDS
                )
            )
        )

    def deployment(self, name: str) -> Object | None:
        """A Deployment as it is now, likewise."""
        apps = client.AppsV1Api(self._client)
        found = _permitted(
            lambda: _or_none(lambda: apps.read_namespaced_deployment(name, self.namespace, _request_timeout=_SECONDS))
        )
        return None if found is None else self._plain(found)

    def patch_inference_service(self, name: str, patch: Mapping[str, Any]) -> None:
        """Change fields of an InferenceService.

        Raises:
            Conflict: The patch has another `resourceVersion` than the object.
            PermissionError: We may not.
            OSError: It was not taken: KServe's own check of it does not answer, perhaps.
        """
        _permitted(
            lambda: _answered(
                lambda: self._experiments.patch_namespaced_custom_object(
                    *_KSERVE, self.namespace, "inferenceservices", name, patch, _request_timeout=_WEBHOOK_SECONDS
                )
            )
        )

    def _plain(self, found: Any) -> Object:
        plain: Object = self._client.sanitize_for_serialization(found)
        return plain


def _or_none(ask: Callable[[], Result]) -> Result | None:
    try:
        return _answered(ask)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _or_conflict(write: Callable[[], Result]) -> Result:
    try:
        return _answered(write)
    except ApiException as error:
        if error.status in (404, 409):
            raise Conflict(error.reason) from None
        raise


def _answered(ask: Callable[[], Result]) -> Result:
    """Ask; an API server that does not answer, or has too much to do, raises OSError."""
    try:
        return ask()
    except HTTPError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    except ApiException as error:
        if error.status in (0, 429) or error.status >= 500:
            raise ConnectionError(f"HTTP {error.status} {error.reason}: {str(error.body)[:300]}") from None
        raise


def _permitted(ask: Callable[[], Result]) -> Result:
    """Ask for what the manifests may not allow, or what KServe may refuse: whatever is refused raises OSError."""
    try:
        return ask()
    except ApiException as error:
        if error.status == 409:
            raise Conflict(error.reason) from None
        try:
            said = str(json.loads(error.body)["message"])
        except (TypeError, ValueError, KeyError):
            said = str(error.reason)
        raise (PermissionError if error.status == 403 else OSError)(said) from None

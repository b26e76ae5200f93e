"""An API server of one namespace in memory: versions and conflicts as on a real one, and death at any request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.inference_services import VERSION
from serving.kubernetes_api import Conflict, Object


class Killed(BaseException):
    """The operator's process has ended. No handler of errors may catch it."""


class FakeCluster:
    """What the operator asks of an API server.

    Attributes:
        objects: Experiments by name.
        config_map: What is in force.
        services: InferenceServices by name.
        deployments: Those of the InferenceServices, by name: `roll_out` brings them up to date.
        told: Each version that an InferenceService was told to serve.
        server_fault: What a change of an InferenceService meets; None: nothing.
        said: Events, as reason and message.
        requests: How many came so far.
        dies_before: The number of the request before which the process ends; None: it lives.
        dies_after: Likewise, after the request was done.
    """

    namespace = "ads"

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.config_map: Object | None = None
        self.services: dict[str, Object] = {}
        self.deployments: dict[str, Object] = {}
        self.server_fault: OSError | None = None
        self.told: list[str] = []
        self.said: list[tuple[str, str]] = []
        self.requests = 0
        self.dies_before: int | None = None
        self.dies_after: int | None = None
        self._version = 0

    def apply(self, name: str, spec: Mapping[str, Any]) -> None:
        """What people do: the object with this spec, made anew or changed."""
        found = self.objects.get(name)
        if found is None:
            metadata = {
                "name": name,
                "uid": name,
                "generation": 1,
                "creationTimestamp": f"2026-01-01T00:00:{self._next():02}Z",
            }
            self.objects[name] = {"metadata": metadata, "spec": _copy(spec)}
        elif found["spec"] != spec:
            found["spec"] = _copy(spec)
            found["metadata"]["generation"] += 1
        self.objects[name]["metadata"]["resourceVersion"] = str(self._next())

    def patch(self, name: str, **fields: Any) -> None:
        self.apply(name, {**self.objects[name]["spec"], **fields})

    def delete(self, name: str) -> None:
        del self.objects[name]

    def status(self, name: str) -> Object:
        found: Object = self.objects[name].get("status", {})
        return found

    def experiments(self) -> list[Object]:
        return self._do(lambda: [_copy(found) for found in self.objects.values()])

    def experiment(self, name: str) -> Object | None:
        return self._do(lambda: _copy(self.objects.get(name)))

    def replace_status(self, given: Mapping[str, Any]) -> Object:
        def write() -> Object:
            found = self.objects.get(given["metadata"]["name"])
            if found is None or found["metadata"]["resourceVersion"] != given["metadata"]["resourceVersion"]:
                raise Conflict(given["metadata"]["name"])
            found["status"] = _copy(given["status"])
            found["metadata"]["resourceVersion"] = str(self._next())
            return _copy(found)  # type: ignore[no-any-return]

        return self._do(write)

    def in_force(self) -> Object | None:
        return self._do(lambda: _copy(self.config_map))

    def put_in_force(self, config_map: Mapping[str, Any]) -> Object:
        def write() -> Object:
            there = None if self.config_map is None else self.config_map["metadata"]["resourceVersion"]
            if config_map["metadata"].get("resourceVersion") != there:
                raise Conflict("ConfigMap")
            self.config_map = _copy(config_map)
            self.config_map["metadata"]["resourceVersion"] = str(self._next())
            return _copy(self.config_map)  # type: ignore[no-any-return]

        return self._do(write)

    def add_service(self, name: str, version: str) -> None:
        """An InferenceService that serves a version."""
        metadata = {"name": name, "resourceVersion": str(self._next())}
        self.services[name] = {"metadata": metadata, "spec": {"predictor": {"annotations": {VERSION: version}}}}
        self.roll_out(name)

    def roll_out(self, name: str) -> None:
        """What KServe and the kubelet do: the pods serve what the InferenceService says."""
        template = {"metadata": {"annotations": {VERSION: self.version_of(name)}}}
        self.deployments[f"{name}-predictor"] = {
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "template": template},
            "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
        }

    def version_of(self, name: str) -> str:
        """Of the model that an InferenceService is meant to serve."""
        return str(self.services[name]["spec"]["predictor"]["annotations"][VERSION])

    def get(self, kind: str, name: str) -> Object | None:
        kept = {"inferenceservices": self.services, "deployments": self.deployments}[kind]
        return self._do(lambda: _copy(kept.get(name)))

    def merge_patch(
        self, kind: str, name: str, patch: Mapping[str, Any], part: str = "", seconds: Any = None
    ) -> Object:
        if self.server_fault is not None:
            raise self.server_fault

        def write() -> Object:
            service = self.services[name]
            if patch["metadata"]["resourceVersion"] != service["metadata"]["resourceVersion"]:
                raise Conflict(name)
            service["metadata"]["resourceVersion"] = str(self._next())
            notes = service["metadata"].get("annotations", {}) | patch["metadata"]["annotations"]
            service["metadata"]["annotations"] = {key: note for key, note in notes.items() if note is not None}
            service["spec"]["predictor"]["annotations"].update(patch["spec"]["predictor"]["annotations"])
            self.told.append(self.version_of(name))
            return _copy(service)  # type: ignore[no-any-return]

        return self._do(write)

    def say(self, found: Mapping[str, Any], reason: str, message: str, warning: bool = False) -> None:
        self._do(lambda: self.said.append((reason, message)))

    def _next(self) -> int:
        self._version += 1
        return self._version

    def _do(self, act: Any) -> Any:
        self.requests += 1
        if self.dies_before is not None and self.requests >= self.dies_before:
            raise Killed
        done = act()
        if self.dies_after is not None and self.requests >= self.dies_after:
            raise Killed
        return done


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))

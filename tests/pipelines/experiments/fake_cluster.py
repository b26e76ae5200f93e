"""An in-memory Kubernetes API for one namespace, which can simulate a crash of its client."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.experiments.cluster_api import CONFIG_MAP, ClusterApi
from serving.inference_services import VERSION
from serving.kubernetes_api import Conflict, Object, Unanswered


class Killed(BaseException):
    """Simulates the operator's death. No error handler catches a BaseException."""


class FakeCluster(ClusterApi):
    """An in-memory API server that answers requests for single objects.

    Attributes:
        told: Model versions that InferenceServices were set to serve, in order.
        server_fault: Error that a change of an InferenceService raises.
        away: If true, the server does not answer.
        said: Reason and message of each event.
        dies_before: Number of the request before which the process dies. None means never.
        dies_after: Number of the request after which the process dies. None means never.
    """

    def __init__(self) -> None:
        self.namespace, self.tables = "ads", None
        self.kept: dict[str, dict[str, Object]] = defaultdict(dict)
        self.objects, self.services = self.kept["experiments"], self.kept["inferenceservices"]
        self.deployments = self.kept["deployments"]
        self.server_fault: OSError | None = None
        self.away = False
        self.told: list[str] = []
        self.said: list[tuple[str, str]] = []
        self.requests = 0
        self.dies_before: int | None = None
        self.dies_after: int | None = None
        self._version = 0

    @property
    def config_map(self) -> Object:
        return self.kept["configmaps"][CONFIG_MAP]

    def apply(self, name: str, spec: Mapping[str, Any]) -> None:
        made = {"name": name, "uid": name, "generation": 0, "creationTimestamp": f"2026-01-01T00:00:{self._next():05}Z"}
        found = self.objects.setdefault(name, {"metadata": made})
        if found.get("spec") != spec:
            found["spec"] = _copy(spec)
            found["metadata"]["generation"] += 1
        found["metadata"]["resourceVersion"] = str(self._next())

    def patch(self, name: str, **fields: Any) -> None:
        self.apply(name, {**self.objects[name]["spec"], **fields})

    def delete(self, kind: str, name: str = "") -> None:
        del self.objects[name or kind]

    def status(self, name: str) -> Object:
        found: Object = self.objects[name].get("status", {})
        return found

    def add_service(self, name: str, version: str) -> None:
        metadata = {"name": name, "resourceVersion": str(self._next())}
        self.services[name] = {"metadata": metadata, "spec": {"predictor": {"annotations": {}}}}
        self.apply_version(name, version)
        self.roll_out(name)

    def apply_version(self, name: str, version: str) -> None:
        self.services[name]["spec"]["predictor"]["annotations"] = {VERSION: version}

    def roll_out(self, name: str) -> None:
        template = {"metadata": {"annotations": {VERSION: self.version_of(name)}}}
        self.deployments[f"{name}-predictor"] = {
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "template": template},
            "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
        }

    def version_of(self, name: str) -> str:
        return str(self.services[name]["spec"]["predictor"]["annotations"][VERSION])

    def get(self, kind: str, name: str) -> Object | None:
        return self._do(lambda: self.kept[kind].get(name))

    def list(self, kind: str, selector: str = "") -> Any:
        return self._do(lambda: [*self.kept[kind].values()])

    def create(self, kind: str, body: Mapping[str, Any]) -> Object:
        if kind == "events":
            return self._do(lambda: self.said.append((body["reason"], body["note"])))
        return self._write(kind, body["metadata"]["name"], lambda _: body, None)

    def replace(self, kind: str, name: str, body: Mapping[str, Any], part: str = "") -> Object:
        def written(found: Object) -> Mapping[str, Any]:
            return {**found, part: body[part]} if part else body

        return self._write(kind, name, written, body["metadata"]["resourceVersion"])

    def merge_patch(
        self, kind: str, name: str, patch: Mapping[str, Any], part: str = "", seconds: Any = None
    ) -> Object:
        if self.server_fault is not None:
            raise self.server_fault
        return self._write(kind, name, lambda one: _merged(one, patch), patch["metadata"]["resourceVersion"])

    def _write(self, kind: str, name: str, written: Callable[[Object], Any], expected: str | None) -> Object:
        def write() -> Object:
            there = self.kept[kind].get(name)
            if expected != (there and there["metadata"]["resourceVersion"]):
                raise Conflict(name)
            made = _copy(written(there or {}))
            made["metadata"]["resourceVersion"] = str(self._next())
            self.kept[kind][name] = made
            self.told += [self.version_of(name)] if kind == "inferenceservices" else []
            return made

        return self._do(write)

    def _next(self) -> int:
        self._version += 1
        return self._version

    def _do(self, act: Callable[[], Any]) -> Any:
        self.requests += 1
        if self.away:
            raise Unanswered("timed out")
        if self.dies_before is not None and self.requests >= self.dies_before:
            raise Killed
        done = act()
        if self.dies_after is not None and self.requests >= self.dies_after:
            raise Killed
        return _copy(done)


def _merged(value: Any, patch: Any) -> Any:
    """Return `value` after a JSON merge patch, in which null removes a field."""
    if not isinstance(patch, dict):
        return patch
    kept = {**value, **{key: _merged((value or {}).get(key) or {}, one) for key, one in patch.items()}}
    return {key: one for key, one in kept.items() if patch.get(key, one) is not None}


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))

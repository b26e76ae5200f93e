"""Requests to a Kubernetes API server: experiments, the ConfigMap that routers read, events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.kubernetes_api import Conflict, KubernetesApi, Object

GROUP = "mtorl-kubeflow.github.io"
VERSION = "v1alpha1"
KIND = "Experiment"
PLURAL = "experiments"
REASON = "mtorl-kubeflow/reason"
"""Annotation of an experiment in which people say why they use the kill switch."""
CONFIG_MAP = "mtorl-experiment"
log = logging.getLogger(__name__)
_SECONDS = (2.0, 3.0)


class ClusterApi(KubernetesApi):
    """The API server of one namespace, whose ConfigMap `CONFIG_MAP` holds the experiments in force."""

    tables: Path | None = Path("/etc/mtorl/budgets")
    """Folder of the budget tables that experiments name."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace, _SECONDS)

    def experiments(self) -> list[Object]:
        """All experiments, the oldest first."""
        found = self.list(PLURAL)
        return sorted(found, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))

    def experiment(self, name: str) -> Object | None:
        """An experiment as it is now; None: there is none of that name."""
        return self.get(PLURAL, name)

    def replace_status(self, found: Mapping[str, Any]) -> Object:
        """Write an experiment's status; returns the new object. Conflict: its `resourceVersion` is another one."""
        return self.replace(PLURAL, found["metadata"]["name"], found, "status")

    def in_force(self) -> Object | None:
        """The ConfigMap that the routers read; None: there is none yet."""
        return self.get("configmaps", CONFIG_MAP)

    def put_in_force(self, config_map: Mapping[str, Any]) -> Object:
        """Write the ConfigMap; returns the new one. Conflict: it has changed, or was created meanwhile."""
        metadata = {**config_map["metadata"], "name": CONFIG_MAP}
        body = {**config_map, "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        if "resourceVersion" in metadata:
            return self.replace("configmaps", CONFIG_MAP, body)
        return self.create("configmaps", body)

    def say(self, found: Mapping[str, Any], reason: str, message: str, warning: bool = False) -> None:
        """Write an event for `kubectl describe`; a failure is only logged, since the history says the same."""
        metadata = found["metadata"]
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}-", "namespace": self.namespace},
            "eventTime": micro_time(),
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": "mtorl-operator",
            "action": reason,
            "reason": reason,
            "type": "Warning" if warning else "Normal",
            "note": message.encode()[:1000].decode(errors="ignore"),
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": metadata["name"],
                "namespace": self.namespace,
                "uid": metadata["uid"],
            },
        }
        try:
            self.create("events", body)
        except (OSError, Conflict) as error:
            log.warning("an event could not be written: %s", str(error).splitlines()[0])


def micro_time() -> str:
    """The present, in Kubernetes' form of a time with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

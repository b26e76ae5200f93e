"""What experiments need of a Kubernetes API server, and what its objects are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serving.kubernetes_api import Object

GROUP = "mtorl-kubeflow.github.io"
VERSION = "v1alpha1"
KIND = "Experiment"
PLURAL = "experiments"
REASON = "mtorl-kubeflow/reason"
"""Annotation of an experiment in which people say why they use the kill switch."""


class Api(Protocol):
    """The API server, for one namespace."""

    def experiments(self) -> list[Object]:
        """All experiments, the oldest first."""

    def experiment(self, name: str) -> Object | None:
        """An experiment as it is now; None: there is none of that name."""

    def replace_status(self, found: Mapping[str, Any]) -> Object:
        """Write an experiment's status; returns the object as it is then.

        Raises:
            Conflict: Its `resourceVersion` is another one.
        """

    def in_force(self) -> Object | None:
        """The ConfigMap that the routers read; None: there is none yet."""

    def put_in_force(self, config_map: Mapping[str, Any]) -> Object:
        """Write it; returns it as it is then.

        Raises:
            Conflict: It has another `resourceVersion` now; or it has none, and there is one already.
        """

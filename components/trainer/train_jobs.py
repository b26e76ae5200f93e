"""The TrainJobs of a namespace, at the API server. The role for it is manifests/pipelines/platform/access.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from components.trainer.train_job import GROUP, PLURAL, VERSION, problem_of
from mtorl.network.parallel import TrainingFailed

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SECONDS = (3.0, 15.0)  # for a connection, and for an answer
_LINES = 40  # of a failed pod's log
_POD_LABEL = "jobset.sigs.k8s.io/jobset-name"
_Result = TypeVar("_Result")


class NoAnswer(Exception):
    """The API server is away, or has a fault of its own: ask again."""


class TrainJobs:
    """Those of one namespace.

    Args:
        namespace: Empty: that in which this process runs.
    """

    def __init__(self, namespace: str = "") -> None:
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()  # of a person who tries it out, or of a test
        self._place = (GROUP, VERSION, namespace or _NAMESPACE.read_text().strip(), PLURAL)
        self._custom, self._core = client.CustomObjectsApi(), client.CoreV1Api()

    def create(self, job: Mapping[str, Any]) -> bool:
        """Make it; False: there is one of this name."""
        made = _asked(
            lambda: self._custom.create_namespaced_custom_object(*self._place, job, _request_timeout=_SECONDS),
            absent=(409,),
        )
        return made is not None

    def get(self, name: str) -> dict[str, Any] | None:
        """The object; None: it is gone."""
        found: dict[str, Any] | None = _asked(
            lambda: self._custom.get_namespaced_custom_object(*self._place, name, _request_timeout=_SECONDS)
        )
        return found

    def delete(self, name: str) -> None:
        """Remove it and its pods."""
        _asked(
            lambda: self._custom.delete_namespaced_custom_object(
                *self._place, name, propagation_policy="Foreground", _request_timeout=_SECONDS
            )
        )

    def show(self, name: str, trainer_status: Mapping[str, Any]) -> None:
        """Say in its status how far it is."""
        body = {"status": {"trainerStatus": trainer_status}}
        _asked(
            lambda: self._custom.patch_namespaced_custom_object_status(
                *self._place, name, body, _request_timeout=_SECONDS
            )
        )

    def problems(self, name: str) -> dict[str, str]:
        """Why pods of it wait or have ended badly, by the pod's name."""
        answer = _asked(
            lambda: self._core.list_namespaced_pod(
                self._place[2],
                label_selector=f"{_POD_LABEL}={name}",
                _request_timeout=_SECONDS,
                _preload_content=False,
            )
        )
        pods = [] if answer is None else json.loads(answer.data)["items"]
        return {pod["metadata"]["name"]: problem for pod in pods if (problem := problem_of(pod))}

    def log(self, pod: str) -> str:
        """The last lines that a pod has written; empty: it is gone, or has not begun."""
        answer = _asked(
            lambda: self._core.read_namespaced_pod_log(
                pod, self._place[2], tail_lines=_LINES, _request_timeout=_SECONDS, _preload_content=False
            ),
            absent=(400, 404),
        )
        return "" if answer is None else answer.data.decode(errors="replace")


def _asked(ask: Callable[[], _Result], absent: tuple[int, ...] = (404, 409)) -> _Result | None:
    """What the API server answers; None: what was asked for is not there, or is there already.

    Raises:
        TrainingFailed: the server refuses it.
        NoAnswer: it does not answer.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return ask()
    except ApiException as error:
        if error.status in absent:
            return None
        if error.status is None or error.status >= 500 or error.status == 429:
            raise NoAnswer(f"Kubernetes: {error.status} {error.reason}") from None
        hint = "; give the run's service account the role of manifests/pipelines/platform/access.yaml"
        if error.status == 404:
            raise TrainingFailed("this cluster knows no TrainJobs: install Kubeflow Trainer, 2.2 or later") from None
        words = _message(error) or error.reason
        raise TrainingFailed(f"Kubernetes: {error.status} {words}{hint if error.status == 403 else ''}") from None
    except HTTPError as error:
        raise NoAnswer(f"Kubernetes does not answer: {type(error).__name__}") from None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        return ""

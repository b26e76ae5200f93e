"""The model servers of a cluster: InferenceServices of one namespace, each of which serves a version of the registry.

A version is an annotation of the predictor, which its pods read, so another one is a roll-out: pods with the version of
before serve until those with the new one are ready. An InferenceService says Ready while any pod serves; its Deployment
says how far the roll-out is.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from serving.deployment import HOST, DeployError, Told

VERSION = "mtorl-kubeflow/model"
"""Annotation of a predictor and its pods: the version's folder in the registry."""
INSTEAD_OF = "mtorl-kubeflow/instead-of"
"""Annotation of an InferenceService whose version has not proved yet that it decides: the one of before."""
_NAME = "mtorl-{arm}"
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KSERVE = ("serving.kserve.io", "v1beta1")
_SECONDS = (3.0, 15.0)  # for a connection, and for an answer: KServe checks what is written
_ANSWER_SECONDS = 10.0
_Result = TypeVar("_Result")


class InferenceServices:
    """Those of one namespace; see `serving.deployment.Servers`.

    Args:
        namespace: Empty: that in which this process runs.
    """

    def __init__(self, namespace: str = "") -> None:
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()  # of a person who tries it out, or of a test
        self._namespace = namespace or _NAMESPACE.read_text().strip()
        self._custom, self._apps = client.CustomObjectsApi(), client.AppsV1Api()

    def told(self, arm: str) -> Told | None:
        """What an arm's server is told to serve; None: it has no server here."""
        place = (*_KSERVE, self._namespace, "inferenceservices", _NAME.format(arm=arm))
        found = _or_none(lambda: self._custom.get_namespaced_custom_object(*place, _request_timeout=_SECONDS))
        version = None if found is None else (found["spec"]["predictor"].get("annotations") or {}).get(VERSION)
        if found is None or not version:
            return None
        return Told(str(version), (found["metadata"].get("annotations") or {}).get(INSTEAD_OF))

    def serve(self, arm: str, told: Told) -> None:
        """Tell it."""
        place = (*_KSERVE, self._namespace, "inferenceservices", _NAME.format(arm=arm))
        patch = {
            "metadata": {"annotations": {INSTEAD_OF: told.instead_of}},
            "spec": {"predictor": {"annotations": {VERSION: told.version}}},
        }
        done = _or_none(lambda: self._custom.patch_namespaced_custom_object(*place, patch, _request_timeout=_SECONDS))
        if done is None:
            raise DeployError(f"InferenceService {place[-1]} is gone")

    def problem(self, arm: str, version: str) -> str:
        """Why it does not serve this version, and nothing else; empty: it does."""
        name = HOST.format(arm=arm)
        found = _or_none(
            lambda: self._apps.read_namespaced_deployment(name, self._namespace, _request_timeout=_SECONDS)
        )
        return problem_of(None if found is None else self._apps.api_client.sanitize_for_serialization(found), version)

    def ask(self, arm: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its decision on an item."""
        url = f"http://{HOST.format(arm=arm)}.{self._namespace}.svc/v1/models/{arm}:predict"
        body = json.dumps({"instances": [item]}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            found: Mapping[str, Any] = json.loads(answer.read())["predictions"][0]
        return found


def problem_of(deployment: Mapping[str, Any] | None, version: str) -> str:
    """Why not all pods of a Deployment serve a version, and nothing else; empty: they do."""
    if deployment is None:
        return "it has no Deployment"
    status, spec = deployment.get("status") or {}, deployment["spec"]
    told = (spec["template"]["metadata"].get("annotations") or {}).get(VERSION)
    if told != version or status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return "the roll-out has not begun"
    wanted = spec.get("replicas", 1)
    pods = {"new": status.get("updatedReplicas", 0), "ready": status.get("availableReplicas", 0)}
    if status.get("replicas", 0) == wanted and set(pods.values()) == {wanted} and wanted:
        return ""
    return (
        f"of {wanted} pods, {pods['new']} are new and {pods['ready']} of {status.get('replicas', 0)} are ready "
        "(mtorl rollout says what they wait for)"
    )


def _or_none(ask: Callable[[], _Result]) -> _Result | None:
    """What the API server answers; None: there is no such object."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return ask()
    except ApiException as error:
        if error.status == 404:
            return None
        hint = "; give the run's service account the role of manifests/pipelines/platform/access.yaml"
        raise DeployError(f"Kubernetes: {error.status} {error.reason}{hint if error.status == 403 else ''}") from None
    except HTTPError as error:
        raise DeployError(f"Kubernetes does not answer: {type(error).__name__}") from None

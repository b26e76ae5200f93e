"""Reads and changes Kubernetes objects of one namespace as plain dictionaries.

    api = KubernetesApi("ads")                          # a pod's credentials, or those of kubectl's context
    api.get("configmaps", "mtorl-experiment")           # None if it does not exist
    api.merge_patch("inferenceservices", "mtorl-incumbent", {"spec": {"predictor": {"annotations": {...}}}})

No other module sends requests to a Kubernetes API server.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving import messages

Object = dict[str, Any]

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_GROUPS = {  # kind -> API group and version
    "configmaps": "v1",
    "deployments": "apps/v1",
    "events": "events.k8s.io/v1",
    "experiments": "mtorl-kubeflow.github.io/v1alpha1",
    "inferenceservices": "serving.kserve.io/v1beta1",
    "leases": "coordination.k8s.io/v1",
    "localsubjectaccessreviews": "authorization.k8s.io/v1",
    "pods": "v1",
    "trainjobs": "trainer.kubeflow.org/v1alpha1",
    "workflows": "argoproj.io/v1alpha1",
}
_AGAIN = (429, 500, 502, 503, 504)


class Unanswered(ConnectionError):
    """Raised if the API server does not answer, is overloaded or has an internal error. A retry may succeed."""


class Refused(OSError):
    """Raised if the API server refuses a request."""

    def __init__(self, status: int, message: str) -> None:
        words = messages.FORBIDDEN if status == 403 else messages.KUBERNETES_REFUSES
        super().__init__(words(status=status, reason=message))
        self.status = status


class Conflict(Exception):
    """Raised if an object was changed meanwhile, was deleted, or already exists."""


def in_pod() -> bool:
    """Whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def namespace_of_pod() -> str:
    """Return the namespace of this pod; "default" outside a cluster."""
    return os.environ.get("MTORL_NAMESPACE") or (_NAMESPACE.read_text().strip() if _NAMESPACE.exists() else "default")


class KubernetesApi:
    """A client for the objects of one namespace, by default that of this pod.

    All methods may raise Unanswered or Refused.

    Args:
        seconds: Two timeouts: to connect, and to wait for an answer.
        retries: Number of retries, after pauses of 0, 2, 4, 8 ... 120 seconds.
    """

    def __init__(self, namespace: str = "", seconds: tuple[float, float] = (3.0, 15.0), retries: int = 0) -> None:
        from kubernetes import client, config
        from urllib3 import Retry

        try:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                config.load_kube_config()
        except config.ConfigException as error:
            raise Unanswered(f"no cluster is configured: {error}") from None
        known = client.Configuration.get_default_copy()
        known.retries = Retry(
            retries, backoff_factor=1, status_forcelist=_AGAIN, allowed_methods=None, raise_on_status=False
        )
        self.namespace = namespace or namespace_of_pod()
        self._client = client.ApiClient(known)
        self._seconds = seconds

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object; None if it does not exist."""
        try:
            return self._request("GET", kind, name)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind that match a label selector, if any."""
        query = [("labelSelector", selector)] if selector else []
        return self._request("GET", kind, query=query)["items"]

    def create(self, kind: str, body: Mapping[str, Any]) -> Object:
        """Create an object; raises Conflict if it exists."""
        return self._request("POST", kind, body=body)

    def replace(self, kind: str, name: str, body: Mapping[str, Any], part: str = "") -> Object:
        """Replace an object, or its subresource `part`; raises Conflict if it was changed meanwhile."""
        try:
            return self._request("PUT", kind, name, part, body=body)
        except Refused as error:
            if error.status == 404:
                raise Conflict(str(error)) from None
            raise

    def merge_patch(
        self, kind: str, name: str, patch: Mapping[str, Any], part: str = "", seconds: tuple[float, float] | None = None
    ) -> Object:
        """Change some fields of an object, or of its subresource `part`. A field with the value None is removed.

        Raises Conflict if the patch has a `resourceVersion` and the object has changed since that version.
        """
        return self._request("PATCH", kind, name, part, body=patch, seconds=seconds)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, if it exists, and the objects that it owns."""
        try:
            self._request("DELETE", kind, name, query=[("propagationPolicy", "Foreground")])
        except Refused as error:
            if error.status != 404:
                raise

    def log(self, pod: str, lines: int) -> str:
        """Return the last lines of a pod's log."""
        query = [("tailLines", lines)]
        return self._request("GET", "pods", pod, "log", query=query, raw=True).data.decode(errors="replace")

    def _request(
        self,
        method: str,
        kind: str,
        name: str = "",
        part: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        query: Any = (),
        seconds: tuple[float, float] | None = None,
        raw: bool = False,
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        group = _GROUPS[kind]
        words = ("apis" if "/" in group else "api", group, "namespaces", self.namespace, kind, name, part)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return self._client.call_api(
                "/" + "/".join(word for word in words if word),
                method,
                query_params=list(query),
                header_params={"Accept": "*/*" if raw else "application/json", "Content-Type": content},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=not raw,
                _request_timeout=seconds or self._seconds,
            )
        except HTTPError as error:
            raise Unanswered(f"Kubernetes does not answer: {type(error).__name__}: {error}") from None
        except ApiException as error:
            message = _message(error)
            if error.status == 409:
                raise Conflict(message) from None
            if not error.status or error.status == 429 or error.status >= 500:
                raise Unanswered(messages.KUBERNETES_REFUSES(status=error.status, reason=message)) from None
            raise Refused(error.status, message) from None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        return str(error.reason)

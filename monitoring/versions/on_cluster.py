"""The versions that a cluster's model servers are told to serve, or would be by a rollback.

    for use in uses_of_services(services):          # InferenceServices, as the API server gives them
        print(use.name, use.reason)
    services = services_beside_us()                 # from inside a pod; None: we are in none

Who can't ask does not know what serves, and must not remove anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monitoring.rollout import MARK, VERSION
from monitoring.versions.deciding import uses_in_log
from monitoring.versions.uses import Use

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SECONDS = (5.0, 20.0)  # for a connection, and for an answer


class NotAllowedError(OSError):
    """Nobody tells us what serves; the message says what to do."""


def uses_of_services(services: Iterable[Mapping[str, Any]]) -> list[Use]:
    """What InferenceServices serve, and what they served before the newest promotion.

    Args:
        services: As the API server gives them.
    """
    uses = []
    for service in services:
        name, metadata = service["metadata"]["name"], service["metadata"]
        served = (service["spec"].get("predictor", {}).get("annotations") or {}).get(VERSION)
        if served:
            uses.append(Use(served, f"{name} serves it", serves=True))
        try:
            mark = json.loads((metadata.get("annotations") or {}).get(MARK) or "{}")
            named = [str(mark[key]) for key in ("before", "after") if key in mark]
        except (ValueError, TypeError):  # written by hand: it tells nothing
            continue
        uses += [Use(version, f"a rollback of {name} goes back to it") for version in named if version != served]
    return uses


def uses_now(decision_log: str) -> list[Use]:
    """What decisions and, from inside a pod, the cluster say of the versions that are used.

    Args:
        decision_log: Folder with decisions.parquet; empty: nothing has decided.

    Raises:
        LogError: A file of the log was removed meanwhile.
        NotAllowedError: The API server does not say what serves.
    """
    return [*uses_in_log(decision_log), *uses_of_services(services_beside_us() or [])]


def services_beside_us() -> list[dict[str, Any]] | None:
    """The InferenceServices of the namespace that this process runs in; None: it runs in no cluster.

    Raises:
        NotAllowedError: The API server does not say it.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        config.load_incluster_config()
        namespace = _NAMESPACE.read_text().strip()
        found = client.CustomObjectsApi().list_namespaced_custom_object(
            "serving.kserve.io", "v1beta1", namespace, "inferenceservices", _request_timeout=_SECONDS
        )
    except (config.ConfigException, OSError, ApiException, HTTPError) as error:
        status = getattr(error, "status", None)
        if status == 404:  # no KServe here
            return []
        words = "let its service account list inferenceservices (docs/registry.md)" if status == 403 else "try it again"
        raise NotAllowedError(f"the API server does not say what serves ({status or error}): {words}") from None
    services: list[dict[str, Any]] = found["items"]
    return services

"""The model servers of a cluster: InferenceServices, each of which serves one version of the registry.

What a promotion or a rollback has to do with them; how a version is rolled out is in `serving.inference_services`.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from pydantic import ValidationError

from monitoring.rollout import MARK
from pipelines.experiments.api import ServerApi
from pipelines.experiments.handover import Mark, Served
from serving.inference_services import VERSION, problem_of

_PREDICTOR = "-predictor"


class InferenceServices:
    """Those of a namespace.

    Args:
        api: Of the API server.
    """

    def __init__(self, api: ServerApi) -> None:
        self._api = api
        self._seen: dict[str, str] = {}  # resourceVersion of each as it was read last

    def name_at(self, url: str | None) -> str | None:
        """The name of the InferenceService that answers at a URL; None: it is none of this namespace."""
        host = (urlsplit(url).hostname if url else None) or ""
        service, _, rest = host.partition(".")
        elsewhere = rest and rest.partition(".")[0] != self._api.namespace
        return None if elsewhere or not service.endswith(_PREDICTOR) else service.removesuffix(_PREDICTOR)

    def for_incumbent(self, url: str | None) -> str | None:
        """Nowhere: an InferenceService is made by an overlay, and serves what that names."""
        return None

    def served(self, name: str) -> Served | None:
        """What it serves; None: there is none of that name, or it serves no version of a registry.

        Raises:
            OSError: The API server can't be asked now, or we may not ask it.
        """
        found = self._api.inference_service(name)
        if found is not None:
            self._seen[name] = found["metadata"]["resourceVersion"]
        version = None if found is None else (found["spec"]["predictor"].get("annotations") or {}).get(VERSION)
        if found is None or not version:
            return None
        mark = (found["metadata"].get("annotations") or {}).get(MARK)
        return Served(str(version), problem_of(self._api.deployment(name + _PREDICTOR), str(version)), _read(mark))

    def serve(self, name: str, version: str, mark: Mark) -> None:
        """Roll a version out, on condition that the InferenceService is unchanged since it was read.

        Raises:
            Conflict: Somebody has: a person, KServe, or another operator that took this one for dead.
            OSError: The API server can't be asked now, or does not take it.
        """
        self._api.patch_inference_service(
            name,
            {
                "metadata": {"resourceVersion": self._seen[name], "annotations": {MARK: mark.model_dump_json()}},
                "spec": {"predictor": {"annotations": {VERSION: version}}},
            },
        )


def _read(mark: str | None) -> Mark | None:
    try:
        return None if mark is None else Mark.model_validate(json.loads(mark))
    except (ValueError, ValidationError):
        return None  # written by hand

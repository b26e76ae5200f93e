"""Model servers on a cluster: InferenceServices of KServe, each of which serves one version of the model registry.

The progress of a rollout is read from the Deployment, because an InferenceService is Ready even during a rollout.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from mtorl.runtime.http import send_request
from serving import messages
from serving.kubernetes_api import KubernetesApi, Object, Refused, in_pod
from serving.model_servers import Mark, Served

VERSION = "mtorl-kubeflow/model"
"""Annotation of an InferenceService's predictor and its pods. The value is the folder of the model version in the
registry, ARM/VERSION."""
MARK = "mtorl-kubeflow/promotion"
"""Annotation of an InferenceService whose model version was changed by a promotion. The value is a `Mark` as JSON."""
INSTEAD_OF = "mtorl-kubeflow/instead-of"
"""Annotation of an InferenceService with the model version that it served before the newest deployment. The annotation
is written together with the new version. It is never removed, because KServe copies annotations to the pods, so a
removal would start a rollout."""
KIND = "inferenceservices"
_PREDICTOR = "-predictor"
_PATCH_SECONDS = (2.0, 12.0)  # to connect, and to wait for KServe's admission webhook


class InferenceServices:
    """The InferenceServices of a namespace, as `serving.model_servers.ModelServers`."""

    applied: ClassVar[bool] = True

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._seen: dict[str, str] = {}  # name -> resourceVersion at the last read

    def name_at(self, url: str | None) -> str | None:
        """Return the name of the InferenceService at a URL; None if the URL is outside of this namespace."""
        host = (urlsplit(url).hostname if url else None) or ""
        service, _, rest = host.partition(".")
        elsewhere = rest and rest.partition(".")[0] != self._api.namespace
        return None if elsewhere or not service.endswith(_PREDICTOR) else service.removesuffix(_PREDICTOR)

    def for_incumbent(self, url: str | None) -> str | None:
        """Return None, because only overlays create InferenceServices."""
        return None

    def served(self, name: str) -> Served | None:
        """Read the served version; None if there is none."""
        found = self._api.get(KIND, name)
        version = None if found is None else (found["spec"]["predictor"].get("annotations") or {}).get(VERSION)
        if found is None or not version:
            return None
        self._seen[name] = found["metadata"]["resourceVersion"]
        notes = found["metadata"].get("annotations") or {}
        problem = problem_of(self._api.get("deployments", name + _PREDICTOR), version)
        return Served(version, problem, _mark(notes.get(MARK)), notes.get(INSTEAD_OF))

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Set the version of an InferenceService, which starts its rollout.

        Raises Conflict if the InferenceService has changed since `served` was last called for it.
        """
        notes = {INSTEAD_OF: instead_of} | ({} if mark is None else {MARK: mark.model_dump_json()})
        patch = {
            "metadata": {"resourceVersion": self._seen[name], "annotations": notes},
            "spec": {"predictor": {"annotations": {VERSION: version}}},
        }
        self._api.merge_patch(KIND, name, patch, seconds=_PATCH_SECONDS)

    def predict(self, name: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Request a decision on an item from an InferenceService."""
        url = f"http://{name}{_PREDICTOR}.{self._api.namespace}.svc/v1/models/{name.removeprefix('mtorl-')}:predict"
        return json.loads(send_request(url, {"instances": [item]}, seconds=10).content)["predictions"][0]


def problem_of(deployment: Mapping[str, Any] | None, version: str) -> str:
    """Return why a Deployment's rollout of a version is incomplete, or an empty text."""
    if deployment is None:
        return messages.NOT_BEGUN()
    status, spec = deployment.get("status") or {}, deployment["spec"]
    told = (spec["template"]["metadata"].get("annotations") or {}).get(VERSION)
    if told != version or status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return messages.NOT_BEGUN()
    wanted = spec.get("replicas", 1)
    counts = {"new": "updatedReplicas", "ready": "availableReplicas", "total": "replicas"}
    pods = {name: status.get(field, 0) for name, field in counts.items()}
    if set(pods.values()) == {wanted} and wanted:
        return ""
    return messages.PODS_AWAITED(wanted=wanted, **pods)


def services_of_pod() -> list[Object] | None:
    """Return the InferenceServices in this pod's namespace; None outside a pod.

    Raises OSError if they can't be read.
    """
    if not in_pod():
        return None
    try:
        return KubernetesApi(retries=2).list(KIND)
    except Refused as error:
        if error.status == 404:  # the cluster has no KServe
            return []
        raise PermissionError(*error.args) from None


def versions_of(services: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Return the served versions, and those for a rollback, as arguments of `Needs.add`."""
    uses: list[tuple[str, str, bool]] = []
    for service in services:
        name = service["metadata"]["name"]
        served = (service["spec"].get("predictor", {}).get("annotations") or {}).get(VERSION)
        if served:
            uses.append((served, messages.SERVES_NOW(server=name), True))
        notes = service["metadata"].get("annotations") or {}
        mark = _mark(notes.get(MARK))
        before = [] if mark is None else [mark.before, mark.after]
        before += [notes[INSTEAD_OF]] if notes.get(INSTEAD_OF) else []
        why = messages.ROLLBACK_TARGET(server=name)
        uses += [(version, why, False) for version in before if version != served]
    return uses


def versions_to_write(services: Iterable[Mapping[str, Any]], phases: Mapping[str, str]) -> dict[str, str]:
    """Return the version of each arm to write into models.yaml: usually the version that is served.

    If a person has undone a promotion or rollback by applying an old models.yaml, the correct version is returned.

    Args:
        phases: Phase of each experiment, such as "promoted" or "rolled back".
    """
    wanted: dict[str, str] = {}
    for service in services:
        served = str((service["spec"].get("predictor", {}).get("annotations") or {}).get(VERSION) or "")
        mark = _mark((service["metadata"].get("annotations") or {}).get(MARK))
        if mark is not None:
            undone = {("promoted", mark.before): mark.after, ("rolled back", mark.after): mark.before}
            served = undone.get((phases.get(mark.experiment, ""), served), served)
        if served:
            wanted[service["metadata"]["name"].removeprefix("mtorl-")] = served
    return wanted


def _mark(text: str | None) -> Mark | None:
    try:
        return None if text is None else Mark.model_validate_json(text)
    except ValueError:
        return None  # edited by a person

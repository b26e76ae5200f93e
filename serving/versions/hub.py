"""Kubeflow's model registry (Hub) is told of each published version: where it lies, its figures and its lineage.

    print(tell(version, "http://model-registry-service.kubeflow:8080"))

The folder is what serves, and the Hub a second place to look: when it does not answer, or refuses, publishing goes on
and says so. Telling it again changes nothing, and completes what was told by half.

    MTORL_MODEL_REGISTRY          its URL, if nobody says one
    MTORL_MODEL_REGISTRY_TOKEN    a bearer token; by default that of the pod's service account
    MTORL_MODEL_REGISTRY_CA       file with the certificates of its authority, for https
    MTORL_CLAIM                   claim of the volume with our registry; without it, that is a folder of this machine
"""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from mtorl.artifact.lineage import Lineage

URL, TOKEN, AUTHORITY = "MTORL_MODEL_REGISTRY", "MTORL_MODEL_REGISTRY_TOKEN", "MTORL_MODEL_REGISTRY_CA"
CLAIM = "MTORL_CLAIM"
_SECONDS = 30.0  # for each request, with the client's own retries
_FORMAT = ("mtorl", "1")  # as the ServingRuntime names it
Answer = TypeVar("Answer")


def tell(version: Path, url: str = "") -> str:
    """Register a version, if there is a Hub; returns what came of it, in words.

    Args:
        version: The version's folder in our registry.
        url: Of the Hub; empty: that of the environment, or there is none.
    """
    url = url or os.environ.get(URL, "")
    if not url:
        return "no Kubeflow Model Registry is named"
    try:
        from model_registry import ModelRegistry

        return _register(ModelRegistry, version, url, _uri(version, os.environ.get(CLAIM, "")))
    except Exception as error:  # whatever is wrong there, the version is published
        words = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {words[0][:300] if words else ''}".rstrip(": ")
        return (
            f"published, but the Kubeflow Model Registry at {url} does not know it ({said}): publish again to tell it"
        )


def metadata(version: Path) -> dict[str, str | int | float | bool]:
    """What the Hub keeps of a version, flat: its figures, where it comes from, and the whole lineage as JSON."""
    model = json.loads((version / "artifact" / "model.json").read_text(encoding="utf-8"))
    told: dict[str, Any] = {
        "digest": model["digest"],
        "data_fingerprint": model.get("data_fingerprint"),
        "git_revision": model.get("git_revision"),
        "simulated": bool(model.get("simulated", False)),
    }
    lineage = Lineage.read(version)
    if lineage is not None:
        told |= {f"metric_{name}": figure.value for name, figure in lineage.metrics.items()}
        told |= {
            "package_version": lineage.code.package,
            "data_source": lineage.data.source,
            "data_collected": lineage.data.collected,
            "pipeline": lineage.run.pipeline,
            "pipeline_run": lineage.run.id,
            "lineage": lineage.model_dump_json(),
        }
        if lineage.gate is not None:
            lift = lineage.gate.lift
            told |= {"gate": lineage.gate.decision, "gate_reason": lineage.gate.reason}
            told |= {"lift": lift.value, "lift_low": lift.low, "lift_high": lift.high}
        for parent in lineage.parents:
            told[parent.relation.replace(" ", "_")] = parent.digest or parent.policy
    return {name: value for name, value in told.items() if value is not None}


def _register(client_of: Any, version: Path, url: str, uri: str) -> str:
    model = json.loads((version / "artifact" / "model.json").read_text(encoding="utf-8"))
    lineage = Lineage.read(version)
    data_set = "" if lineage is None else f"{lineage.data.name}-"
    name, number = f"mtorl-{data_set}{version.parent.name}", str(model["version"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a token it warns, and asks all the same
        hub = client_of(
            url,
            author="mtorl",
            user_token=os.environ.get(TOKEN) or None,
            custom_ca=os.environ.get(AUTHORITY) or None,
            async_runner=_within_seconds,
        )
    known = hub.get_registered_model(name) and hub.get_model_version(name, number)
    if known and hub.get_model_artifact(name, number) is not None:
        return f"the Kubeflow Model Registry knows {name} {number}"
    form = {"model_format_name": _FORMAT[0], "model_format_version": _FORMAT[1]}
    if known:  # whoever told it was stopped in between
        _within_seconds(hub._register_model_artifact(known, name, uri, **form))
    else:
        hub.register_model(name, uri, version=number, metadata=metadata(version), **form)
    return f"told the Kubeflow Model Registry: {name} {number}"


def _uri(version: Path, claim: str) -> str:
    if not claim:
        return version.resolve().as_uri()
    return f"pvc://{claim}/{version.relative_to(version.parents[2])}"  # KServe's form


def _within_seconds(request: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an answer, and not for ever."""
    return asyncio.run(asyncio.wait_for(request, _SECONDS))

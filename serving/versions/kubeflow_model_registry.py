"""Registers a published version in a Kubeflow Model Registry.

| variable | |
|---|---|
| MTORL_MODEL_REGISTRY | its URL; if not set, nothing is registered |
| MTORL_MODEL_REGISTRY_TOKEN | bearer token; by default that of the pod's service account |
| MTORL_MODEL_REGISTRY_CA | file with the CA certificates for https |
| MTORL_CLAIM | PersistentVolumeClaim of our own registry, for the model's URI; if not set, the URI is a local folder |

A failed registration is only reported, because model servers load models from our own registry.
"""

import asyncio
import os
import warnings
from pathlib import Path
from typing import Any

from mtorl.artifact.lineage import Lineage

_SECONDS = 30.0  # timeout of a request, including the client's retries


def announce(version: Path) -> str:
    """Register a version, if a Kubeflow Model Registry is configured; returns the result as a sentence. Idempotent."""
    url = os.environ.get("MTORL_MODEL_REGISTRY", "")
    if not url:
        return "no Kubeflow Model Registry is configured (MTORL_MODEL_REGISTRY)"
    try:
        return f"Kubeflow Model Registry: {_register(version, url)}"
    except Exception as error:  # the version is published already, so don't fail
        words = (str(error).strip().splitlines() or [""])[0][:300]
        return f"published, but not registered at {url}: {type(error).__name__}: {words}. Run this step again to retry"


def _register(version: Path, url: str) -> str:
    from model_registry import ModelRegistry

    lineage = Lineage.read(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client warns that it has no token
        client = ModelRegistry(
            url,
            author="mtorl",
            user_token=os.environ.get("MTORL_MODEL_REGISTRY_TOKEN") or None,
            custom_ca=os.environ.get("MTORL_MODEL_REGISTRY_CA") or None,
            async_runner=lambda request: asyncio.run(asyncio.wait_for(request, _SECONDS)),
        )
    name, number = f"mtorl-{lineage.data.name}-{version.parent.name}", lineage.digest[:12]
    if client.get_registered_model(name) and client.get_model_version(name, number):
        return f"{name} {number} is registered already"
    client.register_model(
        name,
        _uri(version, os.environ.get("MTORL_CLAIM", "")),
        version=number,
        model_format_name="mtorl",  # as in the ServingRuntime
        model_format_version="1",
        metadata=_properties(lineage),
    )
    return f"registered {name} {number}"


def _properties(lineage: Lineage) -> dict[str, Any]:
    found: dict[str, Any] = {f"metric_{name}": figure.value for name, figure in lineage.metrics.items()}
    if lineage.gate is not None:
        found |= {"gate": lineage.gate.decision}
    if lineage.gate is not None and (lift := lineage.gate.lift) is not None:
        found |= {"lift": lift.value, "lift_low": lift.low, "lift_high": lift.high}
    found |= {"digest": lineage.digest, "data_fingerprint": lineage.data.log, "lineage": lineage.model_dump_json()}
    return {name: value for name, value in found.items() if value is not None}


def _uri(folder: Path, claim: str) -> str:
    if not claim:
        return folder.resolve().as_uri()
    return f"pvc://{claim}/{folder.relative_to(folder.parents[2])}"  # KServe's format

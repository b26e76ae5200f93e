"""What a version of a pipeline is called: its name follows from its content."""

from __future__ import annotations

import hashlib


def version_name(pipeline: str, content: bytes) -> str:
    """The name of a version, on a server and as an object of Kubernetes alike.

    Args:
        pipeline: Name of the pipeline.
        content: The compiled pipeline, as it is uploaded.
    """
    return f"{pipeline}-{hashlib.sha256(content).hexdigest()[:12]}"

"""OpenLineage events of a publication: that it began, and that it ended, with the data that the model was made of.

    with reported(pipeline, run_id) as report:
        version = publish(...)
        report(version)                       # the model, and the data of its lineage, in the event that it is done

Where the events go, the variables of OpenLineage's own client say: OPENLINEAGE_URL (and OPENLINEAGE_API_KEY), or
OPENLINEAGE__TRANSPORT with a file, say. Without any there are none. Who does not take them stops no publication.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl.artifact.lineage import Lineage

NAMESPACE = "mtorl"
_PRODUCER = "https://github.com/mtorl-kubeflow/mtorl-kubeflow"


@contextmanager
def reported(job: str, run_id: str) -> Iterator[Callable[[Path], None]]:
    """Report a piece of work: START at once, then COMPLETE, or FAIL after an error.

    Args:
        job: Name of the pipeline.
        run_id: Id of its run; empty: a new one.

    Yields:
        What to call with the folder of the version that was published.
    """
    published: list[Path] = []
    if not any(name.startswith("OPENLINEAGE_") for name in os.environ):
        yield published.append
        return
    run = _as_uuid(run_id)
    _emit("START", job, run, None)
    try:
        yield published.append
    except BaseException:
        _emit("FAIL", job, run, None)
        raise
    _emit("COMPLETE", job, run, published[0] if published else None)


def _emit(state: str, job: str, run: str, version: Path | None) -> None:
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

        inputs, outputs = ([], []) if version is None else _datasets(version)
        client = OpenLineageClient()
        client.emit(
            RunEvent(
                eventType=RunState[state],
                eventTime=datetime.now(UTC).isoformat(),
                run=Run(runId=run),
                job=Job(namespace=NAMESPACE, name=job or "publish"),
                producer=_PRODUCER,
                inputs=inputs,
                outputs=outputs,
            )
        )
        client.close()
    except Exception as error:  # whatever is wrong there, the version is published
        words = str(error).strip().splitlines()
        print(f"OpenLineage's {state} was not taken: {type(error).__name__}: {words[0][:300] if words else ''}")


def _datasets(version: Path) -> tuple[list[Any], list[Any]]:
    """What the model was made of, and the model; the fingerprint of each is its version."""
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    lineage = Lineage.read(version)
    if lineage is None:
        return [], []

    def facets(fingerprint: str) -> dict[str, Any]:
        return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=fingerprint)}

    data = lineage.data
    named = {data.name: data.log, f"{data.name}.raw": data.source, f"{data.name}.collected": data.collected}
    inputs = [
        InputDataset(namespace=NAMESPACE, name=name, facets=facets(fingerprint))
        for name, fingerprint in named.items()
        if fingerprint is not None
    ]
    model = OutputDataset(NAMESPACE, f"{data.name}.model.{version.parent.name}", facets=facets(lineage.digest))
    return inputs, [model]


def _as_uuid(run_id: str) -> str:
    """OpenLineage's runs are called by a UUID; a laptop's are not."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_PRODUCER}/runs/{run_id}") if run_id else uuid.uuid4())

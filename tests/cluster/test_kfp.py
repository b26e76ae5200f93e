"""The pipelines on a real Kubeflow Pipelines: nights on a log that changes, and a killed training.

Recurring runs: test_nights.py; failed runs: test_run_ends.py.

They need, besides $KUBECONFIG, what `mtorl pipeline` needs ($KFP_ENDPOINT, $KFP_NAMESPACE, $KFP_EXISTING_TOKEN), the
train image that the cluster can pull ($MTORL_IMAGE), and a namespace in which KFP runs pipelines, without a claim
`mtorl-data`, which they make and remove. About fifteen minutes on two CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.kfp_runs import (
    LIST,
    MINUTES,
    WRITE_LOG,
    empty_volume,
    end_of,
    ended,
    in_namespace,
    log_of,
    on_volume,
    pod_of,
    started,
)
from tests.cluster.kubectl import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kfp]

LOG, DATASET = "/mnt/mtorl/touchpoints.parquet", "/mnt/mtorl/dataset.yaml"
# The gate promotes whatever comes, and there is no server to roll it out to.
SMALL = {"source": LOG, "dataset": DATASET, "epochs": 2, "min_lift": -1, "deploy_seconds": 0}
LEARNED = {"ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate", "package", "smoke-test"}


@pytest.fixture(scope="module")
def volume(client: Any) -> Iterator[None]:
    """The claim that every step mounts, empty."""
    with empty_volume():
        yield


def test_nights_train_on_what_is_new_and_only_then(client: Any, pipelines: dict[str, Path], volume: None) -> None:
    seed = str(time.time_ns() % 1_000_000)  # no run of an earlier day has seen this log
    on_volume(WRITE_LOG, "300", seed, "0")
    first = ended(client, pipelines["mtorl-train"], SMALL)
    assert first.state == "SUCCEEDED", first
    assert {name for name in LEARNED if first.steps[name] == "SUCCEEDED"} == LEARNED
    assert first.steps["notify"] == "SUCCEEDED", "all of the run is in what the server knows of it"
    published = on_volume(LIST, "registry/challenger/*")

    unchanged = ended(client, pipelines["mtorl-train"], SMALL)
    assert {name for name, state in unchanged.steps.items() if state == "CACHED"} == LEARNED
    assert on_volume(LIST, "registry/challenger/*") == published

    on_volume(WRITE_LOG, "300", seed, "0.25")  # one row
    changed = ended(client, pipelines["mtorl-train"], SMALL)
    assert {name for name in LEARNED if changed.steps[name] == "SUCCEEDED"} == LEARNED
    assert len(on_volume(LIST, "registry/challenger/*").split()) == len(published.split()) + 1
    assert on_volume(LIST, "checkpoints/*").split() == []
    assert set(on_volume(MARKS).split()) == {"False"}


MARKS = """
import json
from pathlib import Path
models = Path("/mnt/mtorl/registry").glob("*/*/artifact/model.json")
print(*(json.loads(path.read_text())["simulated"] for path in models))
"""


def test_a_training_whose_pod_is_deleted_goes_on_in_the_next_run(
    client: Any, pipelines: dict[str, Path], volume: None
) -> None:
    on_volume(WRITE_LOG, "600", str(time.time_ns() % 1_000_000), "0")
    long = SMALL | {"epochs": 12}
    run_id = started(client, pipelines["mtorl-train"], long)
    pod = wait_until("a pod that trains", lambda: pod_of(run_id, "train-challenger"), MINUTES)
    wait_until("a checkpoint", lambda: "%" in in_namespace("logs", pod, "-c", "main"), MINUTES)
    in_namespace("delete", "pod", pod)
    end_of(client, run_id)
    again = ended(client, pipelines["mtorl-train"], long)
    assert again.state == "SUCCEEDED", again
    assert "goes on from a checkpoint" in log_of(again.id, "train-challenger") + log_of(run_id, "train-challenger")
    assert on_volume(LIST, "checkpoints/*").split() == []

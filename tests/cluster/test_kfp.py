"""Tests of the pipelines on a real Kubeflow Pipelines server.

They need the settings of `mtorl pipeline`, $MTORL_IMAGE, and a namespace that has no claim `mtorl-data`. They take 18
minutes on two CPUs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.kfp_server import upload
from pipelines.cluster.schedule import RecurringRun, Schedule, apply
from tests.cluster.kfp_runs import (
    LIST,
    MINUTES,
    WRITE_LOG,
    empty_volume,
    end_of,
    ended,
    in_namespace,
    log_of,
    look,
    on_volume,
    pod_of,
    started,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.kfp]

LOG, DATASET = "/mnt/mtorl/touchpoints.parquet", "/mnt/mtorl/dataset.yaml"
# The gate promotes every model, and no step waits for a model server.
SMALL = {"source": LOG, "dataset": DATASET, "epochs": 2, "min_lift": -1, "deploy_seconds": 0}
RECURRING = "mtorl-test-recurs"
LEARNED = {"ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate", "package", "smoke-test"}


@pytest.fixture(scope="module")
def volume(client: Any) -> Iterator[None]:
    with empty_volume():
        yield


def test_nights_train_on_what_is_new_and_only_then(client: Any, pipelines: dict[str, Path], volume: None) -> None:
    on_volume(WRITE_LOG, "300", "1", "0")
    first = ended(client, pipelines["mtorl-train"], SMALL)
    assert first.state == "SUCCEEDED", first
    assert {name for name in LEARNED if first.steps[name] == "SUCCEEDED"} == LEARNED
    assert first.steps["notify"] == "SUCCEEDED", "the server lists every step of the run"
    published = on_volume(LIST, "registry/challenger/*")

    unchanged = ended(client, pipelines["mtorl-train"], SMALL)
    assert {name for name, state in unchanged.steps.items() if state == "CACHED"} == LEARNED
    assert on_volume(LIST, "registry/challenger/*") == published

    on_volume(WRITE_LOG, "300", "1", "0.25")  # changes one row
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


def test_training_whose_pod_is_deleted_resumes_next_run(client: Any, pipelines: dict[str, Path], volume: None) -> None:
    on_volume(WRITE_LOG, "600", "1", "0")
    long = SMALL | {"epochs": 12}
    run_id = started(client, pipelines["mtorl-train"], long)
    pod = eventually(lambda: pod_of(run_id, "train-challenger"), MINUTES)
    eventually(lambda: "%" in in_namespace("logs", pod, "-c", "main"), MINUTES)
    in_namespace("delete", "pod", pod)
    end_of(client, run_id)
    again = ended(client, pipelines["mtorl-train"], long)
    assert again.state == "SUCCEEDED", again
    assert "resuming from a checkpoint" in log_of(again.id, "train-challenger") + log_of(run_id, "train-challenger")
    assert on_volume(LIST, "checkpoints/*").split() == []


def minutely(since: str = "yesterday") -> Schedule:
    """Return a schedule that runs the monitor pipeline every minute.

    By default, each run fails within seconds, because "yesterday" isn't an ISO time.
    """
    run = RecurringRun(name=RECURRING, pipeline="mtorl-monitor", cron="* * * * *", parameters={"since": since})
    return Schedule(name="test", runs=(run,))


def recurring_runs(client: Any) -> list[str]:
    listed = client.list_recurring_runs(page_size=100, namespace=client.get_user_namespace()).recurring_runs
    return [one.recurring_run_id for one in listed or [] if one.display_name == RECURRING]


def started_by(client: Any, recurring_run: str) -> str:
    """Return the id of the newest run of a recurring run, or the empty string."""
    listed = client.list_runs(page_size=100, sort_by="created_at desc")
    found = [run.run_id for run in listed.runs or [] if run.recurring_run_id == recurring_run]
    return found[0] if found else ""


def test_what_recurs_runs_is_replaced_and_removed(client: Any, pipelines: dict[str, Path], volume: None) -> None:
    upload(client, pipelines["mtorl-monitor"])
    try:
        assert apply(client, minutely()) == {RECURRING: "created"}
        assert apply(client, minutely()) == {RECURRING: "unchanged"}
        (first,) = recurring_runs(client)
        under_way = eventually(lambda: started_by(client, first), MINUTES)
        assert not look(client, under_way).ended

        assert apply(client, minutely("today")) == {RECURRING: "replaced"}
        (second,) = recurring_runs(client)
        assert second != first
        # Replacing the recurring run must not delete a run in progress, or that run would never end.
        assert end_of(client, under_way).steps["verdict"] == "FAILED"
        assert "not an ISO time" in log_of(under_way, "verdict")
        run = client.get_run(eventually(lambda: started_by(client, second), MINUTES))
        assert run.runtime_config.parameters["since"] == "today"
        end_of(client, run.run_id)  # the next test's volume must not get the pods of this run
    finally:
        assert apply(client, Schedule(name="test", runs=())) == {RECURRING: "removed"}
    assert recurring_runs(client) == []

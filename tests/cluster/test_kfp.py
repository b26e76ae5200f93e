"""The pipelines on a real Kubeflow Pipelines: nights on a log that changes, a killed training, wrong input, and what
recurs.

They need, besides $KUBECONFIG, what `mtorl pipeline` needs ($KFP_ENDPOINT, $KFP_NAMESPACE, $KFP_EXISTING_TOKEN), the
train image that the cluster can pull ($MTORL_IMAGE), and a namespace in which KFP runs pipelines, without a claim
`mtorl-data`, which they make and remove. About twenty minutes on two CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.recurring import apply, plan
from pipelines.run_state import RunState
from pipelines.schedule import RecurringRun, Schedule
from pipelines.server import Server
from pipelines.step_logs import logs
from tests.cluster.kfp_runs import (
    LIST,
    MINUTES,
    WRITE_LOG,
    empty_volume,
    ended,
    in_namespace,
    log_of,
    on_volume,
    pod_of,
    states,
)
from tests.cluster.kubectl import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kfp]

LOG, DATASET = "/mnt/mtorl/touchpoints.parquet", "/mnt/mtorl/dataset.yaml"
# The gate promotes whatever comes, and there is no server to roll it out to.
SMALL = {"source": LOG, "dataset": DATASET, "epochs": "2", "min_lift": "-1", "deploy_seconds": "0"}
RECURRING = "mtorl-test-recurs"
LEARNED = {"ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate", "package", "smoke-test"}
NOTED = """
import json
from pathlib import Path
print(json.loads(Path("/mnt/mtorl/runs/mtorl-train-staging.json").read_text()))
"""


@pytest.fixture(scope="module")
def volume(server: Server) -> Iterator[None]:
    """The claim that every step mounts, empty."""
    with empty_volume():
        yield


def test_nights_train_on_what_is_new_and_only_then(server: Server, pipelines: dict[str, Path], volume: None) -> None:
    seed = str(time.time_ns() % 1_000_000)  # no run of an earlier day has seen this log
    on_volume(WRITE_LOG, "300", seed, "0")
    first = ended(server, pipelines["mtorl-train-staging"], SMALL)
    assert first.state == "SUCCEEDED", first
    assert {name for name in LEARNED if states(first)[name] == "SUCCEEDED"} == LEARNED
    assert states(first)["notify"] == "SUCCEEDED", "all of the run is in what the server knows of it"
    published = on_volume(LIST, "registry/challenger/*")

    unchanged = ended(server, pipelines["mtorl-train-staging"], SMALL)
    assert {name for name, state in states(unchanged).items() if state == "CACHED"} == LEARNED
    assert on_volume(LIST, "registry/challenger/*") == published

    on_volume(WRITE_LOG, "300", seed, "0.25")  # one row
    changed = ended(server, pipelines["mtorl-train-staging"], SMALL)
    assert {name for name in LEARNED if states(changed)[name] == "SUCCEEDED"} == LEARNED
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
    server: Server, pipelines: dict[str, Path], volume: None
) -> None:
    on_volume(WRITE_LOG, "600", str(time.time_ns() % 1_000_000), "0")
    long = SMALL | {"epochs": "12"}
    run_id = server.start(server.upload(pipelines["mtorl-train-staging"]), long)
    pod = wait_until("a pod that trains", lambda: pod_of(run_id, "train-challenger"), MINUTES)
    wait_until("a checkpoint", lambda: "%" in in_namespace("logs", pod, "-c", "main"), MINUTES)
    in_namespace("delete", "pod", pod)
    wait_until("the end of the run", lambda: server.look(run_id).ended, MINUTES)
    again = ended(server, pipelines["mtorl-train-staging"], long)
    assert again.state == "SUCCEEDED", again
    assert "goes on from a checkpoint" in log_of(again.run_id, "train-challenger") + log_of(run_id, "train-challenger")
    assert on_volume(LIST, "checkpoints/*").split() == []


def test_wrong_input_ends_in_what_to_do(server: Server, pipelines: dict[str, Path], volume: None) -> None:
    on_volume(WRITE_LOG, "30", "1", "0")  # also the description, or that is what lacks
    run = ended(server, pipelines["mtorl-train-staging"], SMALL | {"source": "/mnt/mtorl/none.parquet"})
    assert run.state == "FAILED"
    assert reasons(run) == {"fingerprint": "/mnt/mtorl/none.parquet: no such file or folder"}
    noted = on_volume(NOTED)
    assert "/mnt/mtorl/none.parquet: no such file or folder" in noted and run.run_id in noted


def test_a_step_for_which_there_is_no_gpu_says_so(server: Server, pipelines: dict[str, Path], volume: None) -> None:
    if "nvidia.com/gpu" in in_namespace("get", "nodes", "-o", "jsonpath={.items[*].status.allocatable}"):
        pytest.skip("the cluster has GPUs")
    run_id = server.start(server.upload(pipelines["mtorl-train"]), SMALL)
    try:

        def reason() -> str:
            return next((step.reason for step in server.look(run_id).steps if step.name == "train-challenger"), "")

        assert "Insufficient nvidia.com/gpu" in wait_until("the reason", reason, MINUTES)
    finally:
        server.stop(run_id)


def reasons(run: RunState) -> dict[str, str]:
    """Why each step has failed, but the one that holds them all together with the one that always runs."""
    return {step.name: step.reason for step in run.steps if step.state == "FAILED" and step.name != "exit-handler-1"}


def minutely(since: str = "yesterday") -> Schedule:
    """A pipeline that fails soon, as its parameter is no time, and again every minute."""
    parameters = {"since": since}
    run = RecurringRun(name=RECURRING, pipeline="mtorl-monitor-staging", cron="* * * * *", parameters=parameters)
    return Schedule(name="test", runs=(run,))


def recurring_runs(server: Server) -> list[str]:
    """The ids of those of this test."""
    listed = server.client.list_recurring_runs(page_size=100, namespace=server.namespace).recurring_runs
    return [one.recurring_run_id for one in listed or [] if one.display_name == RECURRING]


def started_by(server: Server, recurring_run: str) -> str:
    """The id of a run that a recurring run has started; empty if there is none."""
    listed = server.client.list_runs(page_size=100, sort_by="created_at desc", namespace=server.namespace)
    found = [run.run_id for run in listed.runs or [] if run.recurring_run_id == recurring_run]
    return found[0] if found else ""


def test_what_recurs_runs_is_replaced_and_removed(server: Server, pipelines: dict[str, Path], volume: None) -> None:
    server.upload(pipelines["mtorl-monitor-staging"])
    try:
        assert [change.what for change in apply(server, minutely())] == ["made"]
        assert [change.what for change in apply(server, minutely())] == ["was there"]
        (first,) = recurring_runs(server)
        under_way = wait_until("a run that recurs", lambda: started_by(server, first), MINUTES)
        assert not server.look(under_way).ended

        assert [change.what for change in apply(server, minutely("today"))] == ["replaced"]
        (second,) = recurring_runs(server)
        assert second != first
        # It goes on to its own end: a run whose workflow Kubernetes had deleted would never come to one.
        wait_until("the end of the run", lambda: server.look(under_way).ended, MINUTES)
        assert reasons(server.look(under_way)).keys() == {"verdict"}
        told = {log.step: log.text for log in logs(server, under_way)}
        assert "not an ISO time" in told["verdict"]
        run = server.client.get_run(wait_until("a run of the new one", lambda: started_by(server, second), MINUTES))
        assert run.runtime_config.parameters["since"] == "today"
    finally:
        assert {change.what for change in apply(server, Schedule(name="test", runs=()))} <= {"removed"}
    assert recurring_runs(server) == [] and [change.what for change in plan(server, minutely())] == ["made"]

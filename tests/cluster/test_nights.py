"""Test of three nightly trainings on a cluster whose volume is empty at first.

The test has the requirements of `test_running.py` and `test_kfp.py`, and takes half an hour on two CPUs.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from pipelines.cluster.kfp_server import upload
from pipelines.cluster.schedule import RecurringRun, Schedule, apply
from tests.cluster.kfp_runs import LIST, Run, delete_mounting, ended, in_namespace, log_of, look, on_volume, platform
from tests.cluster.kubectl import Object, kubectl, listed
from tests.cluster.running import Running, answers, decided
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node, pytest.mark.kfp]

NIGHTS = 3
# Numbers of users: in the first night's log, added each night, and in the feature store.
LOG_USERS, NEW_USERS, USERS = 200, 40, 400
# About a sixth of a day's decisions are those of test users, more than `opportunities.ENOUGH`. With fewer, the gate
# would compare the models on touchpoints.
DECISIONS = 4_000
SCHEDULE, NIGHTLY = "test-nights", "mtorl-test-nightly"
BOOTSTRAP = {"dataset": "simulator", "simulate": True, "users": USERS, "epochs": 1}
NIGHT: dict[str, str | int | float] = {
    "source": "/mnt/mtorl/export.parquet",
    "dataset": "simulator",
    # Accept that the first night's log is smaller than the bootstrap's.
    "shrunk": "accept",
    "epochs": 1,
    "min_lift": -1,
}
EXPORT = """
import sys
from pathlib import Path
import pandas as pd
log = pd.read_parquet("/mnt/mtorl/touchpoints.parquet")
target = Path("/mnt/mtorl/export.parquet")
log[log["user_id"] < f"u{int(sys.argv[1]):06d}"].to_parquet(target.with_suffix(".new"), index=False)
target.with_suffix(".new").rename(target)
"""
# Half of the decisions are random. Otherwise the value of a new model could not be estimated from the log.
EXPERIMENT = yaml.safe_load((MANIFESTS / "examples" / "experiment.yaml").read_text())
for arm in EXPERIMENT["spec"]["arms"]:
    arm["explore"] = {"share": 0.5, "scope": "both"}
LAST_TRAINING = """
from pathlib import Path
print(Path("/mnt/mtorl/trainings/trainings.jsonl").read_text().splitlines()[-1])
"""
TRAINED_ON = """
import sys
from pathlib import Path
from mtorl.artifact.artifact import trained_on
users = [f"u{number:06d}" for number in range(int(sys.argv[1]), int(sys.argv[2]))]
for model in trained_on(Path("/mnt/mtorl/registry").glob("*/*/artifact"), users):
    for place in model.places:
        print(model.name, place.parent.name, len(model.users))
"""


@pytest.fixture
def running(client: Any, pipelines: dict[str, Path], images: list[Object], tmp_path: Path) -> Iterator[Running]:
    others = names_of(os.environ["KFP_NAMESPACE"], "pvc")
    made = Running(tmp_path, images, os.environ["KFP_NAMESPACE"])
    kubectl("apply", "-f", "-", stdin=platform(made.namespace))
    try:
        made.install("overlays/dev")
        in_namespace("apply", "-f", "-", stdin=yaml.safe_dump(EXPERIMENT))
        # Start a pod that makes the group of the pipeline steps the owner of the volume.
        on_volume("")
        run = ended(client, pipelines["mtorl-bootstrap"], BOOTSTRAP)
        assert run.state == "SUCCEEDED", failures(run)
        # Training cannot use exposures of users that are missing in the feature store.
        in_namespace("create", "job", "mtorl-materialize-now", "--from=cronjob/mtorl-materialize")
        in_namespace("wait", "--for=condition=Complete", "job/mtorl-materialize-now", "--timeout=180s")
        in_namespace("wait", "--for=condition=Ready", "pod/mtorl-router-0", "--timeout=180s")
        in_namespace("wait", "--for=condition=Ready", "inferenceservice", "--all", "--timeout=300s")
        yield made
    finally:
        kubectl("delete", "namespace", made.gateway, "--ignore-not-found", "--wait=false")
        in_namespace("delete", "experiments.mtorl-kubeflow.github.io", "--all")
        in_namespace("delete", "-k", made.target("overlays/dev"), "--ignore-not-found")
        in_namespace("delete", "job", "mtorl-materialize-now", "--ignore-not-found")
        delete_mounting()
        # StatefulSets leave their claims, whose decisions a later test would train on.
        in_namespace("delete", "pvc", "--ignore-not-found", *(names_of(made.namespace, "pvc") - others))


def names_of(namespace: str, kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in listed(namespace, kind)}


def a_day(running: Running) -> set[str]:
    """Send the requests of a day, and wait until all decisions are in the lake.

    Returns the ids of the decisions that a model made.
    """
    taken: set[str] = set()
    while len(taken) < DECISIONS:
        said = answers(running.calling(60, uuid4().hex, "", "0.01"))
        taken |= {one["decision_id"] for one in decided(said)}
    eventually(lambda: taken <= running.uploaded(), 400)
    return taken


def trained(on: range) -> dict[str, int]:
    lines = on_volume(TRAINED_ON, str(on.start), str(on.stop)).splitlines()
    return {line.split()[1]: int(line.split()[2]) for line in lines}


def failures(run: Run) -> str:
    failed = [name for name, state in run.steps.items() if state == "FAILED"]
    return "\n".join([f"{failed} failed", *(log_of(run.id, name)[-2000:] for name in failed)])


def night_after(client: Any, begin: datetime) -> Run:
    def at_end() -> Run | None:
        listed = client.list_runs(page_size=100, sort_by="created_at asc")
        later = [one for one in listed.runs or [] if one.recurring_run_id and one.created_at > begin]
        run = look(client, later[0].run_id) if later else None
        return run if run and run.ended else None

    return eventually(at_end, 1800)


def test_from_an_empty_volume_through_three_nights(client: Any, pipelines: dict[str, Path], running: Running) -> None:
    before = set(on_volume(LIST, "registry/challenger/*").split())
    upload(client, pipelines["mtorl-train"])
    days: list[set[str]] = []
    nightly = RecurringRun(name=NIGHTLY, pipeline="mtorl-train", cron="*/5 * * * *", parameters=NIGHT)
    try:
        for night in range(NIGHTS):
            known = LOG_USERS + night * NEW_USERS
            on_volume(EXPORT, str(known))
            days.append(a_day(running))
            begin = datetime.now(UTC)
            changes = apply(client, Schedule(name=SCHEDULE, runs=(nightly,)))
            assert changes == {NIGHTLY: "unchanged" if night else "created"}
            run = night_after(client, begin)
            assert run.state == "SUCCEEDED", failures(run)
            assert set.union(*days) <= running.uploaded(), "every decision must reach the lake"
            said = log_of(run.id, "ingest")
            assert "opportunities, " in said and "exposures took place" in said
            published = set(on_volume(LIST, "registry/challenger/*").split()) - before
            assert published, on_volume(LAST_TRAINING)
            before |= published
            now = trained(range(known, USERS))
            assert all(now[new] > 0 for new in published), "training must use users who are only in the decisions"
            assert "no decision of an incumbent yet" not in log_of(run.id, "served-incumbent")
    finally:
        apply(client, Schedule(name=SCHEDULE, runs=()))

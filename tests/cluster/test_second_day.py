"""Tests of an installation on its second day, with the decision log in a bucket.

The first day is a copy of the routers' log with earlier times. The tests need $IMAGES and take 15 minutes on two CPUs.
Each test continues from the state that the previous test left.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args
from uuid import uuid4

import pytest

from mtorl.log.records import ID_FIELD, Kind
from tests.cluster.experiment_pods import NAME, ROUTERS, Pods
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.cluster.object_store import KEY, PORT, SECRET, ObjectStore
from tests.cluster.running import BOOTSTRAP
from tests.cluster.test_experiment_pods import SPEC
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

BUDGET = 30.0  # exhausted before the end of the day
FORGOTTEN = "u000007"
LAKE = "$(MTORL_LAKE)"
REQUESTS = "{op: replace, path: /spec/template/spec/containers/0/resources/requests, value: {cpu: 50m, memory: 384Mi}}"
JOB = "/spec/jobTemplate/spec/template/spec/containers/0"
# Small requests, so that production fits on two CPUs, and egress to the object store.
PATCHES = {
    "kind: InferenceService": """
- {op: replace, path: /spec/predictor/minReplicas, value: 1}
- {op: replace, path: /spec/predictor/maxReplicas, value: 1}
""",
    "kind: ServingRuntime": f"- {REQUESTS.replace('template/spec/', '').replace('384', '768')}",
    "kind: StatefulSet, name: mtorl-router": f"- {REQUESTS}",
    "kind: CronJob": f"- {{op: replace, path: {JOB}/resources/requests, value: {{cpu: 50m, memory: 512Mi}}}}",
    "kind: CronJob, name: mtorl-bootstrap": f"""
- {{op: add, path: {JOB}/args/-, value: --parameter=simulate=true}}{BOOTSTRAP}""",
    "kind: NetworkPolicy, name: mtorl-.*to-object-store": f"""
- {{op: add, path: /spec/egress/0/ports/-, value: {{port: {PORT}, protocol: TCP}}}}
""",
}
RELEASE = "- {op: add, path: /spec/template/metadata/annotations, value: {release: next}}"
REPORT = """
import json, sys, time, urllib.request
address, token, *decisions = sys.argv[1:]
at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
told = [{"event_id": f"late-{kind}-{one}", "decision_id": one, "kind": kind, "value": 1.0, "event_time": at}
        for one in decisions for kind in ("click", "cost")]
request = urllib.request.Request(address, json.dumps({"outcomes": told}).encode(), {"Authorization": f"Bearer {token}"})
print(json.load(urllib.request.urlopen(request, timeout=20))["accepted"])
"""
IDS = """
kind, name, days = sys.argv[1:]
rows = db.execute(f"SELECT {name} FROM {lake.records(db, kind)} WHERE date_sub('day', {TIME}, now()) = {days}")
print(*(one for (one,) in rows.fetchall()))
"""
COPIES = """
copy_back(lake, 1)
copy_back(lake, 6)
"""
# Print the duplicate decisions, the total cost and the number of users.
COUNTS = """
decisions, outcomes = lake.records(db, "decision"), lake.records(db, "outcome")
today = f"{TIME} > now() - INTERVAL 20 HOUR"
shown = f"SELECT decision_id FROM {decisions} WHERE expose AND NOT withdrawn AND {today}"
for query in (
    f"SELECT count(request_id) - count(DISTINCT request_id) FROM {decisions} WHERE {today} AND NOT withdrawn",
    f"SELECT fsum(value) FROM {outcomes} WHERE kind = 'cost' AND decision_id IN ({shown})",
    f"SELECT string_agg(DISTINCT user_id, ' ') FROM {decisions}",
):
    print(*db.execute(query).fetchone())
"""


class Day(Pods):
    def __init__(self, folder: Path, images: list[Object], namespace: str = "") -> None:
        super().__init__(folder, images, namespace)
        self.store = ObjectStore(f"{self.namespace}-storage", self.image)
        patches = [{"target": _yaml(target), "patch": patch} for target, patch in PATCHES.items()]
        component = os.path.relpath(MANIFESTS / "components" / "object-store", (folder / "any").resolve())
        lake = {"name": "mtorl-lake", "behavior": "merge", "literals": [f"MTORL_LAKE={self.store.lake}"]}
        self.further |= {"components": [component], "configMapGenerator": [lake], "patches": patches}
        keys = (f"--from-literal=AWS_ACCESS_KEY_ID={KEY}", f"--from-literal=AWS_SECRET_ACCESS_KEY={SECRET}")
        kubectl("-n", self.namespace, "create", "secret", "generic", "mtorl-lake", *keys)

    def job(self, cronjob: str, *arguments: str, ends: str = "succeeded") -> str:
        """Start a job from a CronJob, wait until it has succeeded (or `ends`), and return its log."""
        name = f"{cronjob}-{uuid4().hex[:6]}"
        made = ("create", "job", name, f"--from=cronjob/{cronjob}", "--dry-run=client", "-o", "json")
        job = json.loads(kubectl("-n", self.namespace, *made))
        job["spec"] |= {"backoffLimit": 0}
        if arguments:
            job["spec"]["template"]["spec"]["containers"][0]["args"] = list(arguments)
        kubectl("-n", self.namespace, "apply", "-f", "-", stdin=json.dumps(job))
        log = ("-n", self.namespace, "logs", f"job/{name}", "--tail=-1")
        eventually(lambda: get(self.namespace, "job", name)["status"].get(ends), 300, lambda: kubectl(*log))
        return kubectl(*log)

    def ids(self, kind: Kind, days: int = 0) -> list[str]:
        return self.store.run(IDS, kind, ID_FIELD[kind], str(days)).split()

    def uploaded_all(self) -> bool:
        return self.decided() <= set(self.ids("decision")) and self.reported() <= set(self.ids("outcome"))


def _yaml(text: str) -> Object:
    return dict(word.split(": ") for word in text.split(", "))


@pytest.fixture(scope="module")
def day(images: list[Object], tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Day:
    made = Day(tmp_path_factory.mktemp("day"), images)
    ended += [made.namespace, made.gateway, made.store.namespace]
    made.install("overlays/production")
    made.bootstrap()
    budgets = [{"campaign": "*", "channel": "*", "amount": BUDGET}]
    made.people.apply(NAME, {**SPEC, "salt": "day", "budgets": budgets})
    made.people.move(NAME, "50%", "agreed on Monday")
    made.people.wait_for_phase("50%", NAME, state=made.state)
    eventually(made.is_in_force, 180, made.state)
    return made


def test_the_first_day_is_in_the_bucket(day: Day) -> None:
    with ThreadPoolExecutor(1) as pool:
        day.calls(pool, 60).result()
    assert len(day.decided()) > 200 and day.reported()
    eventually(day.uploaded_all, 180)
    day.store.run(COPIES)
    assert len(day.ids("decision", 1)) == len(day.ids("decision")) >= len(day.decided())


def test_the_night_reads_it(day: Day) -> None:
    before = {kind: sorted(day.ids(kind, 1)) for kind in get_args(Kind)}
    said = day.job("mtorl-compact", "data", "compact", LAKE, "--dataset=simulator")
    assert {kind: sorted(day.ids(kind, 1)) for kind in get_args(Kind)} == before, said
    days = 'print(len({file.hour.date() for file in lake.closed("decision")}))'
    assert int(day.store.run(days)) >= 2, "an hour of each day must be closed"
    assert "decisions" in said, "the job must report the training rows"
    assert "Traceback" not in day.job("mtorl-monitor") + day.job("mtorl-materialize")
    eventually(lambda: day.people.status(NAME).get("users", 0), 180, day.state)


def test_the_second_day(day: Day) -> None:
    ns = day.namespace
    routers = {name: day.uids("pod")[name] for name in ROUTERS}
    yesterday = day.ids("decision", 1)
    with ThreadPoolExecutor(1) as pool:
        calls = day.calls(pool, 300)
        day.apply("overlays/production")
        assert routers.items() <= day.uids("pod").items(), "the same manifests must change nothing"
        for target in ("kind: StatefulSet, name: mtorl-router", "kind: Deployment"):
            day.further["patches"].append({"target": _yaml(target), "patch": RELEASE})
        day.apply("overlays/production")
        kubectl("-n", ns, "rollout", "status", "statefulset/mtorl-router", "--timeout=240s")
        with day.store.away():
            time.sleep(15)
            assert "\nmtorl: When " in day.job("mtorl-compact", ends="failed"), "the failure must be one line"
            kubectl("-n", ns, "delete", "pod", ROUTERS[1], "--wait=false")
            time.sleep(45)
            kubectl("-n", ns, "wait", "--for=condition=Ready", f"pod/{ROUTERS[1]}", "--timeout=120s")
        late = ("exec", "caller", "--", "python", "-c", REPORT, f"http://mtorl-router.{ns}/v1/outcomes")
        said = kubectl("-n", day.gateway, *late, "t" * 32, *yesterday[:50])
        assert said.strip() == str(2 * len(yesterday[:50]))
        calls.result()
    assert {one["status"] for one in day.said} <= {0, 200, 503}
    eventually(day.uploaded_all, 240)
    late_ids = {f"late-{kind}-{one}" for one in yesterday[:50] for kind in ("click", "cost")}
    eventually(lambda: late_ids <= set(day.ids("outcome", 1)), 180)
    day.people.patch(NAME, enabled=False)
    eventually(lambda: day.serve({"incumbent"}), 60, day.state)


def test_nothing_is_lost_doubled_or_overspent(day: Day) -> None:
    day.job("mtorl-compact")
    doubled, spent, _ = day.store.run(COUNTS).splitlines()
    assert doubled == "0"
    assert day.spent() == pytest.approx(float(spent), abs=1e-6)


def test_a_user_and_an_old_day_are_forgotten(day: Day) -> None:
    assert day.ids("decision", 6)
    said = day.job("mtorl-compact", "data", "forget", LAKE, "--user", FORGOTTEN, "--older-than=5")
    assert not day.ids("decision", 6) and not day.ids("outcome", 6), said
    _, _, users = day.store.run(COUNTS).splitlines()
    assert FORGOTTEN not in users and len(users.split()) > 100


def test_no_log_and_no_object_has_the_secret(day: Day) -> None:
    for pod in listed(day.namespace, "pod"):
        assert SECRET not in json.dumps(pod)
        log = ("logs", pod["metadata"]["name"], "--all-containers", "--tail=-1")
        assert SECRET not in kubectl("-n", day.namespace, *log, allowed=(0, 1))

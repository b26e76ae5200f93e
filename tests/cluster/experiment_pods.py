"""Installs the operator, two routers and the models as pods, without an Experiment object."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from tests.cluster.experiment_objects import Cluster
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.cluster.running import Answers, Running, answers
from tests.waiting import eventually

NAME = "spring"
ROUTERS = ("mtorl-router-0", "mtorl-router-1")
OPERATOR = "app.kubernetes.io/name=mtorl-operator"
COST = 0.02  # of each exposure
BALANCES = """
import json
from serving.ledger import open_ledger
for one in open_ledger("redis://mtorl-ledger:6379/0?name=ads", 30.0).balances():
    print(json.dumps(one.__dict__))
"""


class Pods(Running):
    """An installation of all components, with callers whose answers are in `said`."""

    def __init__(self, folder: Path, images: list[Object], namespace: str = "") -> None:
        super().__init__(folder, images, namespace)
        self.monitoring = f"{self.namespace}-monitoring"
        self.people = Cluster(self.namespace)
        self.said: Answers = []

    def calls(self, pool: ThreadPoolExecutor, seconds: float) -> Future[None]:
        return pool.submit(lambda: self.said.extend(answers(self.calling(seconds, uuid4().hex, "", str(COST)))))

    def decided(self) -> set[str]:
        return {one["decision_id"] for one in self.said if one["status"] == 200}

    def reported(self) -> set[str]:
        return {event for one in self.said for event in one.get("reported", ())}

    def spent(self) -> float:
        """Return the experiment's spend from the ledger, after checking that no account exceeds its limit."""
        balances = [json.loads(line) for line in self.in_router(BALANCES).splitlines()]
        for one in balances:
            assert one["spent"] + one["reserved"] <= one["limit"] + 1e-9 and not one["excess"], one
        (whole,) = [one for one in balances if one["arm"] == "*"]
        return float(whole["spent"])

    def asked(self, router: str, seconds: float = 3) -> Answers:
        return self.call(seconds, uuid4().hex, self.address(router))

    def arms(self, router: str) -> set[str]:
        return {one["arm"] for one in self.asked(router) if one["status"] == 200}

    def models(self) -> dict[str, str]:
        """Return the digest of the model that last answered for each arm."""
        said = [one for router in ROUTERS for one in self.asked(router) if one["status"] == 200 and one["model"]]
        return {one["arm"]: one["model"]["digest"] for one in said}

    def serve(self, arms: set[str]) -> bool:
        return all(self.arms(router) == arms for router in ROUTERS)

    def operator(self) -> str:
        """Wait until both operator pods are ready; returns the name of the leader's pod."""

        def leads() -> str | None:
            pods = listed(self.namespace, "pod", OPERATOR)
            found = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
            ready = [one["ready"] for pod in found for one in pod["status"].get("containerStatuses", [])]
            holder = get(self.namespace, "lease", "mtorl-operator").get("spec", {}).get("holderIdentity", "")
            pod = str(holder).partition("_")[0]
            return pod if ready == [True, True] and pod in {one["metadata"]["name"] for one in found} else None

        return eventually(leads, 180, self.state)

    def log(self) -> str:
        self.operator()
        return kubectl("-n", self.namespace, "logs", "-l", OPERATOR, "--tail=-1")

    def state(self) -> str:
        log = kubectl("-n", self.namespace, "logs", "-l", OPERATOR, "--tail=20", allowed=(0, 1))
        conditions = kubectl("-n", self.namespace, "get", "exp", "-o", "jsonpath={.items[*].status.conditions}")
        return kubectl("-n", self.namespace, "get", "exp,pods") + log + conditions

    def is_in_force(self) -> bool:
        found = get(self.namespace, "exp", NAME)
        said = [one for one in found.get("status", {}).get("conditions", ()) if one["type"] == "InForce"]
        return any(one["status"] == "True" and one["message"].endswith(f"on {', '.join(ROUTERS)}") for one in said)

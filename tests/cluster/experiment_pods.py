"""An installation with operator, two routers and models as pods, before its experiment object is created."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from tests.cluster.experiment_objects import Cluster
from tests.cluster.kubectl import Object, get, kubectl, listed, wait_until
from tests.cluster.running import Answers, Running

NAME = "spring"
ROUTERS = ("mtorl-router-0", "mtorl-router-1")
OPERATOR = "app.kubernetes.io/name=mtorl-operator"
STAGE = """
from pathlib import Path
from serving.decision_log.segments import read
*_, last = read(Path("/var/lib/mtorl/spool"), "decision")
print(last["stage"])
"""


class Pods(Running):
    """A complete installation, and a pod in a monitoring namespace."""

    def __init__(self, folder: Path, images: list[Object], namespace: str = "") -> None:
        super().__init__(folder, images, namespace)
        self.monitoring = f"{self.namespace}-monitoring"
        self.people = Cluster(self.namespace)

    def asked(self, router: str, seconds: float = 3) -> Answers:
        return self.call(seconds, uuid4().hex, self.address(router))

    def address(self, router: str) -> str:
        return f"{get(self.namespace, 'pod', router)['status'].get('podIP', '')}:8080"

    def arms(self, router: str) -> set[str]:
        return {one["arm"] for one in self.asked(router) if one["status"] == 200}

    def models(self) -> dict[str, str]:
        """Return the model that answered last for each arm."""
        said = [one for router in ROUTERS for one in self.asked(router) if one["status"] == 200 and one["model"]]
        return {one["arm"]: one["model"]["digest"] for one in said}

    def serve(self, arms: set[str]) -> bool:
        """Return whether each router serves exactly these arms."""
        return all(self.arms(router) == arms for router in ROUTERS)

    def stages(self) -> set[str]:
        """Return the stages of the routers' last decisions, from their logs."""
        return {self.in_router(STAGE, pod=router).strip() for router in ROUTERS}

    def operator(self) -> str:
        """Return the name of the leading operator's pod, once both pods are ready."""

        def leads() -> str | None:
            pods = listed(self.namespace, "pod", OPERATOR)
            found = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
            ready = [one["ready"] for pod in found for one in pod["status"].get("containerStatuses", [])]
            holder = get(self.namespace, "lease", "mtorl-operator").get("spec", {}).get("holderIdentity", "")
            pod = str(holder).partition("_")[0]
            return pod if ready == [True, True] and pod in {one["metadata"]["name"] for one in found} else None

        return wait_until("the operators", leads, 180, self.state)

    def log(self) -> str:
        self.operator()
        return kubectl("-n", self.namespace, "logs", "-l", OPERATOR, "--tail=-1")

    def state(self) -> str:
        log = kubectl("-n", self.namespace, "logs", "-l", OPERATOR, "--tail=20", allowed=(0, 1))
        return kubectl("-n", self.namespace, "get", "exp,pods") + log

    def is_in_force(self) -> bool:
        """Return whether the object reports that both routers have its active state."""
        found = get(self.namespace, "exp", NAME)
        said = [one for one in found.get("status", {}).get("conditions", ()) if one["type"] == "InForce"]
        return [(one["status"], one["message"]) for one in said] == [("True", f"on {', '.join(ROUTERS)}")]

    def seconds_to_kill(self, seconds: float = 12) -> float:
        """Switch the kill switch on; returns the seconds until every router gives a challenger's user the incumbent.

        The routers are called for `seconds`, which is returned if they do not switch in this time.
        """
        arm_of = self.people.in_force(NAME).arm_of
        callers = [self.calling(seconds, uuid4().hex, self.address(router)) for router in ROUTERS]
        with ThreadPoolExecutor(len(callers)) as pool:
            heard = [pool.submit(_heard, caller) for caller in callers]
            time.sleep(3)  # until the callers send requests
            began = time.monotonic()
            self.people.patch(NAME, enabled=False)
            answers = [[(when - began, one) for when, one in said.result()] for said in heard]
        killed = [
            [at for at, one in said if one.get("arm") not in (None, arm_of(one["user_id"], one["campaign_id"])[0])]
            for said in answers
        ]
        assert min(min(times, default=seconds) for times in killed) > 0, "before, every user must get the assigned arm"
        return max(min(times, default=seconds) for times in killed)


def _heard(caller: subprocess.Popen[str]) -> list[tuple[float, Object]]:
    assert caller.stdout
    return [(time.monotonic(), json.loads(line)) for line in caller.stdout]

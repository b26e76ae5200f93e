"""An installation with operator, two routers and models as pods, before its experiment object is created."""

from pathlib import Path
from uuid import uuid4

from tests.cluster.experiment_objects import Cluster
from tests.cluster.kubectl import Object, get, kubectl, listed
from tests.cluster.running import Answers, Running
from tests.waiting import eventually

NAME = "spring"
ROUTERS = ("mtorl-router-0", "mtorl-router-1")
OPERATOR = "app.kubernetes.io/name=mtorl-operator"


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

    def operator(self) -> str:
        """Return the name of the leading operator's pod, once both pods are ready."""

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
        return kubectl("-n", self.namespace, "get", "exp,pods") + log

    def is_in_force(self) -> bool:
        """Return whether the object reports that both routers have its active state."""
        found = get(self.namespace, "exp", NAME)
        said = [one for one in found.get("status", {}).get("conditions", ()) if one["type"] == "InForce"]
        return [(one["status"], one["message"]) for one in said] == [("True", f"on {', '.join(ROUTERS)}")]

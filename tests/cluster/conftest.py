"""What the tests on a cluster share: a namespace of their own for each test, with the project installed in it.

They run on the cluster that $KUBECONFIG names, and only there: no other configuration is looked for.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from pipelines.cluster.compile import compile_all
from pipelines.cluster.kfp_server import connect
from pipelines.profile import on_cluster
from tests.cluster.kfp_runs import NEEDED
from tests.cluster.kubectl import Object, kubectl, listed, serves, wait_until
from tests.manifests.conftest import MANIFESTS

HERE = Path(__file__).parent
SECRETS = {"mtorl-redis": {"password": "x" * 32}, "mtorl-router": {"tokens": "t" * 32}}
# Every container has to say what it needs, or the quota refuses its pod.
QUOTA = {"requests.cpu": "200", "requests.memory": "400Gi", "limits.cpu": "400", "limits.memory": "800Gi"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out unless it is asked for: `make test` must not touch the cluster of somebody's shell."""
    named = [Path(word.split("::")[0]).resolve() for word in config.args]
    asked = "cluster" in config.option.markexpr or any(HERE in (path, *path.parents) for path in named)
    return None if asked else True


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """The cluster; skips all of these tests without one."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: set KUBECONFIG to one with KServe in which these tests may make namespaces")
    if shutil.which("kubectl") is None:
        pytest.skip("no cluster: kubectl is not installed")
    kubectl("get", "--raw", "/readyz")
    if not serves("serving.kserve.io/v1beta1"):
        pytest.skip("the cluster of KUBECONFIG has no KServe (0.20, Standard mode)")
    # Two workers may make it at once, and one of them gets AlreadyExists.
    for allowed in ((0, 1), (0,)):
        kubectl("apply", "-k", str(MANIFESTS / "crds"), allowed=allowed)
    kubectl("wait", "--for=condition=Established", "crd/experiments.mtorl-kubeflow.github.io")


def simulated() -> bool:
    """Whether no node of the cluster runs anything: kwok only says that pods run."""
    return all("kwok.x-k8s.io/node" in node["metadata"].get("annotations", {}) for node in listed("default", "node"))


@pytest.fixture(scope="session", autouse=True)
def volumes(cluster: None) -> Iterator[None]:
    """Volumes enough for all tests where nodes are simulated: nothing provides them there, and each is used once."""
    if not simulated():
        yield
        return
    classes = [found["metadata"] for found in listed("default", "storageclass")]
    default = [one["name"] for one in classes if "true" in one.get("annotations", {}).values()]
    one = f"""
apiVersion: v1
kind: PersistentVolume
spec:
  capacity: {{storage: 200Gi}}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  storageClassName: "{default[0] if default else ""}"
  hostPath: {{path: /nowhere}}
"""
    run = uuid.uuid4().hex[:8]
    made = [{**yaml.safe_load(one), "metadata": {"name": f"mtorl-test-{run}-{number}"}} for number in range(150)]
    kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(made))
    yield
    kubectl("delete", "persistentvolume", "--wait=false", *[volume["metadata"]["name"] for volume in made])


class Installation:
    """A namespace with what a platform gives: the foundation, Secrets and a quota. Targets are applied into it."""

    further: ClassVar[Object] = {}  # what else the kustomization of an overlay says: images, patches

    def __init__(self, folder: Path, foundation: str = "foundation/dev", namespace: str = "") -> None:
        self.folder = folder
        self.namespace = namespace or f"mtorl-test-{uuid.uuid4().hex[:8]}"
        kubectl("apply", "-k", self.target(foundation))
        given: list[Object] = [
            {"kind": "Secret", "metadata": {"name": name}, "stringData": values} for name, values in SECRETS.items()
        ]
        given.append({"kind": "ResourceQuota", "metadata": {"name": "all"}, "spec": {"hard": QUOTA}})
        given = [{"apiVersion": "v1", **made} for made in given]
        kubectl("-n", self.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(given))

    def target(self, name: str) -> str:
        """A target, such as "overlays/dev", moved to this namespace; returns the folder for `kubectl apply -k`."""
        moved = self.folder / name.replace("/", "-")
        moved.mkdir(exist_ok=True)
        made = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [os.path.relpath((MANIFESTS / name).resolve(), moved.resolve())],
            **({} if name.startswith("foundation/") else self.further),
        }
        (moved / "kustomization.yaml").write_text(yaml.safe_dump(made))
        return str(moved)

    def apply(self, name: str) -> str:
        return kubectl("apply", "-k", self.target(name))

    def differences(self, name: str) -> str:
        """What `kubectl diff` finds between a target and the cluster."""
        return kubectl("diff", "-k", self.target(name), allowed=(0, 1))

    def wait_for_pods(self) -> None:
        """Wait until each workload has the pods that it wants: the API server has admitted them, running or not."""
        wait_until("pods of every workload", lambda: not self._without_pods(), state=self.refusals)

    def _without_pods(self) -> list[str]:
        pods = [pod["metadata"]["labels"] for pod in listed(self.namespace, "pod")]
        return [
            workload["metadata"]["name"]
            for workload in listed(self.namespace, "statefulset,deployment")
            if sum(workload["spec"]["selector"]["matchLabels"].items() <= labels.items() for labels in pods)
            < workload["spec"].get("replicas", 1)
        ]

    def refusals(self) -> str:
        """Which workloads have no pods, and why, as the events say."""
        failed = [event for event in listed(self.namespace, "event") if event["reason"].startswith("Failed")]
        said = "\n".join(f"{event['involvedObject']['name']}: {event['message']}" for event in failed)
        return f"missing those of {self._without_pods()}\n{said}"

    def uids(self, kind: str) -> dict[str, str]:
        """Name and identity of all objects of a kind: one that was made anew has another."""
        return {o["metadata"]["name"]: o["metadata"]["uid"] for o in listed(self.namespace, kind)}


@pytest.fixture(scope="session")
def ended() -> Iterator[list[str]]:
    """Namespaces to remove at the end, which nobody waits for."""
    namespaces: list[str] = []
    yield namespaces
    if namespaces:
        kubectl("delete", "namespace", *namespaces, "--wait=false")


@pytest.fixture(scope="session")
def images() -> list[Object]:
    """Which images to run; skips where nothing runs."""
    if simulated():
        pytest.skip("the cluster of KUBECONFIG has no node that runs anything")
    if not os.environ.get("IMAGES"):
        pytest.skip("set IMAGES to the file with what scripts/images.sh load (or push) printed")
    images: list[Object] = yaml.safe_load(Path(os.environ["IMAGES"]).read_text())["images"]
    return images


@pytest.fixture(scope="session")
def client() -> Any:
    """A `kfp.Client` of the server."""
    if missing := [name for name in NEEDED if not os.environ.get(name)]:
        pytest.skip(f"no Kubeflow Pipelines to test on: set {', '.join(missing)}")
    return connect(*(os.environ[name] for name in NEEDED[1:4]))


@pytest.fixture(scope="session")
def pipelines(client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compiled for $MTORL_IMAGE and CPUs, by name."""
    return {path.stem: path for path in compile_all(tmp_path_factory.mktemp("compiled"), on_cluster(gpus=0))}


@pytest.fixture
def installation(tmp_path: Path, ended: list[str]) -> Installation:
    """A namespace in which nothing of ours runs yet, removed at the end."""
    made = Installation(tmp_path)
    ended.append(made.namespace)
    return made

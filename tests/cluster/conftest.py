"""Fixtures for the tests on a Kubernetes cluster.

The tests use only the cluster that $KUBECONFIG names, never the user's default kubeconfig.
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
from tests.cluster.kubectl import Object, kubectl, listed, serves
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

HERE = Path(__file__).parent
SECRETS = {"mtorl-redis": {"password": "x" * 32}, "mtorl-router": {"tokens": "t" * 32}}
# Every container must set requests and limits, or the quota refuses its pod.
QUOTA = {"requests.cpu": "200", "requests.memory": "400Gi", "limits.cpu": "400", "limits.memory": "800Gi"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip this folder unless it is selected, because `make test` must not change the user's cluster."""
    named = [Path(word.split("::")[0]).resolve() for word in config.args]
    asked = "cluster" in config.option.markexpr or any(HERE in (path, *path.parents) for path in named)
    return None if asked else True


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Skip all tests of this folder if there is no cluster."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: set KUBECONFIG to one with KServe in which these tests may make namespaces")
    if shutil.which("kubectl") is None:
        pytest.skip("no cluster: kubectl is not installed")
    kubectl("get", "--raw", "/readyz")
    if not serves("serving.kserve.io/v1beta1"):
        pytest.skip("the cluster of KUBECONFIG has no KServe (0.20, Standard mode)")
    # Two test processes may create the CRD at once. One of them then fails with AlreadyExists, so apply it again.
    for allowed in ((0, 1), (0,)):
        kubectl("apply", "-k", str(MANIFESTS / "crds"), allowed=allowed)
    kubectl("wait", "--for=condition=Established", "crd/experiments.mtorl-kubeflow.github.io")


def simulated() -> bool:
    """Return whether kwok simulates all nodes: such nodes report pods as running without running them."""
    return all("kwok.x-k8s.io/node" in node["metadata"].get("annotations", {}) for node in listed("default", "node"))


@pytest.fixture(scope="session", autouse=True)
def volumes(cluster: None) -> Iterator[None]:
    """Create volumes if all nodes are simulated, because simulated nodes have no storage provisioner."""
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
    """A namespace with the objects that a platform team provides, such as Secrets and a quota."""

    further: ClassVar[Object] = {}  # fields to add to kustomization.yaml, such as images and patches
    manifests = MANIFESTS

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
        """Write a kustomization that applies `name` to this namespace; returns its folder."""
        moved = self.folder / name.replace("/", "-")
        moved.mkdir(exist_ok=True)
        made = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [os.path.relpath((self.manifests / name).resolve(), moved.resolve())],
            **({} if name.startswith("foundation/") else self.further),
        }
        (moved / "kustomization.yaml").write_text(yaml.safe_dump(made))
        return str(moved)

    def apply(self, name: str) -> str:
        return kubectl("apply", "-k", self.target(name))

    def differences(self, name: str) -> str:
        return kubectl("diff", "-k", self.target(name), allowed=(0, 1))

    def wait_for_pods(self) -> None:
        eventually(lambda: not self._without_pods(), state=self.refusals)

    def _without_pods(self) -> list[str]:
        pods = [pod["metadata"]["labels"] for pod in listed(self.namespace, "pod")]
        return [
            workload["metadata"]["name"]
            for workload in listed(self.namespace, "statefulset,deployment")
            if sum(workload["spec"]["selector"]["matchLabels"].items() <= labels.items() for labels in pods)
            < workload["spec"].get("replicas", 1)
        ]

    def refusals(self) -> str:
        """Return the workloads without pods, and the events that say why."""
        failed = [event for event in listed(self.namespace, "event") if event["reason"].startswith("Failed")]
        said = "\n".join(f"{event['involvedObject']['name']}: {event['message']}" for event in failed)
        return f"missing those of {self._without_pods()}\n{said}"

    def uids(self, kind: str) -> dict[str, str]:
        """Return the UID of each object by its name. A recreated object gets a new UID."""
        return {o["metadata"]["name"]: o["metadata"]["uid"] for o in listed(self.namespace, kind)}


@pytest.fixture(scope="session")
def ended() -> Iterator[list[str]]:
    namespaces: list[str] = []
    yield namespaces
    if namespaces:
        kubectl("delete", "namespace", *namespaces, "--wait=false")


@pytest.fixture(scope="session")
def images() -> list[Object]:
    if simulated():
        pytest.skip("the cluster of KUBECONFIG has no node that runs anything")
    if not os.environ.get("IMAGES"):
        pytest.skip("set IMAGES to the file with what scripts/images.sh load (or push) printed")
    images: list[Object] = yaml.safe_load(Path(os.environ["IMAGES"]).read_text())["images"]
    return images


@pytest.fixture(scope="session")
def client() -> Any:
    if missing := [name for name in NEEDED if not os.environ.get(name)]:
        pytest.skip(f"no Kubeflow Pipelines to test on: set {', '.join(missing)}")
    return connect(*(os.environ[name] for name in NEEDED[1:4]))


@pytest.fixture(scope="session")
def pipelines(client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in compile_all(tmp_path_factory.mktemp("compiled"), on_cluster(gpus=0))}


@pytest.fixture
def installation(tmp_path: Path, ended: list[str]) -> Installation:
    made = Installation(tmp_path)
    ended.append(made.namespace)
    return made

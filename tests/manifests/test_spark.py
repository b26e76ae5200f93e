"""The component spark-features: what it runs, what it may do, and the pods that Spark itself makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement

from tests.manifests.conftest import (
    CRDS,
    LABELS,
    MANIFESTS,
    ROOT,
    VALIDATOR,
    Objects,
    allowed,
    named,
    of_kind,
    parsed,
    pod_specs,
    render,
)

FOLDER = "tests/spark-features"
README = (MANIFESTS / "components" / "spark-features" / "README.md").read_text()
DRIVER = {"app.kubernetes.io/name": "mtorl-features", "spark-role": "driver"}
EXECUTOR = {**DRIVER, "spark-role": "executor"}


@pytest.fixture
def objects() -> Objects:
    """The component in the dev overlay."""
    return list(yaml.safe_load_all(render(FOLDER)))


@pytest.fixture
def schedule(objects: Objects) -> dict[str, Any]:
    return named(objects, "ScheduledSparkApplication", "mtorl-features")


# --- what it runs ---------------------------------------------------------------------------------------------------


def test_it_calls_the_command_as_the_command_takes_it(objects: Objects, schedule: dict[str, Any]) -> None:
    app = schedule["spec"]["template"]
    context = parsed(app["arguments"])
    pod = dict(pod_specs(objects))["ScheduledSparkApplication/mtorl-features/driver"]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert context["trusted"], "or one process reads the whole log first"
    assert (
        volumes[mounts[str(Path(context["log"]).parent)]["name"]] == volumes[mounts[str(context["out"].parent)]["name"]]
    )
    dataset = Path(context["dataset"])
    config = named(objects, "ConfigMap", volumes[mounts[str(dataset.parent)]["name"]]["configMap"]["name"])
    assert dataset.name in config["data"]


def test_every_executor_sees_the_volume_that_the_driver_writes_to(objects: Objects) -> None:
    claims = [
        [(m["mountPath"], v["persistentVolumeClaim"]["claimName"])
         for v in pod["volumes"] if "persistentVolumeClaim" in v
         for m in pod["containers"][0]["volumeMounts"] if m["name"] == v["name"] and not m.get("readOnly")]
        for name, pod in pod_specs(objects) if name.startswith("ScheduledSparkApplication/")
    ]  # fmt: skip
    assert claims == [[("/mnt/mtorl", "mtorl-data")]] * 2


def test_the_application_file_is_in_the_image_and_is_the_command(schedule: dict[str, Any]) -> None:
    file = Path(urlsplit(schedule["spec"]["template"]["mainApplicationFile"]).path)
    assert file.suffix == ".py", "spark-submit takes nothing else for Python"
    image = MANIFESTS / "images" / "spark"
    assert re.search(rf"^COPY .*/{file.name} {file.parent}/$", (image / "Dockerfile").read_text(), re.M)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(image / file.name), "data", "build", "--help"], capture_output=True, env=environment
    )
    assert done.returncode == 0 and b"--trusted" in done.stdout, done.stderr


def test_the_image_computes_with_spark() -> None:
    text = (MANIFESTS / "images" / "spark" / "Dockerfile").read_text()
    option = {p.name: p for p in _command("data", "build").params}["engine"]
    assert f"{option.envvar}=spark" in text.split()


def _command(*path: str) -> Any:
    import typer

    from cli.main import app

    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    return command


def test_spark_is_of_a_version_that_the_project_takes(schedule: dict[str, Any]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (spark,) = [r for r in map(Requirement, extras["spark"]) if r.name == "pyspark"]
    assert spark.specifier.contains(schedule["spec"]["template"]["sparkVersion"])


def test_it_runs_one_at_a_time_in_a_stated_time_zone(schedule: dict[str, Any]) -> None:
    assert schedule["spec"]["concurrencyPolicy"] == "Forbid" and schedule["spec"]["timeZone"] == "UTC"
    label = {"sparkoperator.k8s.io/scheduled-app-name": schedule["metadata"]["name"]}
    assert schedule["metadata"]["labels"].items() >= label.items(), "the operator counts runs by it, those by hand too"


def test_a_run_ends_and_goes(schedule: dict[str, Any]) -> None:
    app = schedule["spec"]["template"]
    restart = app["restartPolicy"]
    assert restart["type"] == "OnFailure" and restart["onFailureRetries"] == 1
    tries = 1 + restart["onFailureRetries"]
    assert tries * app["driver"]["template"]["spec"]["activeDeadlineSeconds"] < 86400, (
        "or it meets the next night's run"
    )
    assert app["timeToLiveSeconds"] > 86400, "or its logs are gone before anyone looks"


def test_its_size_fits_one_node_in_dev_and_is_the_readmes_elsewhere(schedule: dict[str, Any]) -> None:
    small = schedule["spec"]["template"]["executor"]
    assert (small["instances"], small["cores"], small["coreLimit"]) == (1, 2, "2")
    everything = list(yaml.safe_load_all(render("tests/everything")))
    app = named(everything, "ScheduledSparkApplication", "mtorl-features")["spec"]["template"]
    said = dict(re.findall(r"^\| `([^|]+)` \| ([^|]+) \| ", README, re.M))
    executor, driver = app["executor"], app["driver"]
    assert said["executor.instances"] == str(executor["instances"])
    assert said["executor.cores`, `executor.memory"] == f"{executor['cores']}, {executor['memory']}"
    assert said["driver.memory"] == driver["memory"]
    for role in (executor, driver):
        assert int(role["coreLimit"]) >= role["cores"]


@pytest.fixture
def by_hand(schedule: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What the README's command gives to `kubectl create`."""
    (tmp_path / "schedule.json").write_text(json.dumps(schedule))
    fake = tmp_path / "kubectl"
    fake.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys
if "create" in sys.argv:
    pathlib.Path({str(tmp_path / "created.yaml")!r}).write_text(sys.stdin.read())
else:
    found = json.loads(pathlib.Path({str(tmp_path / "schedule.json")!r}).read_text())
    for key in sys.argv[-1].removeprefix("jsonpath=").strip("{{}}").split(".")[1:]:
        found = found[key]
    print(json.dumps(found), end="")
"""
    )
    fake.chmod(0o755)
    (script,) = re.findall(r"```bash\n(.*?)```", README, re.S)
    subprocess.run(["bash", "-euc", script], check=True, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    made: dict[str, Any] = yaml.safe_load((tmp_path / "created.yaml").read_text())
    return made


def test_the_run_by_hand_is_the_scheduled_one(by_hand: dict[str, Any], schedule: dict[str, Any]) -> None:
    assert by_hand["spec"] == schedule["spec"]["template"]
    assert by_hand["metadata"]["labels"] == schedule["metadata"]["labels"], "the pods get their labels from it"


def test_the_run_by_hand_keeps_to_the_schema(by_hand: dict[str, Any]) -> None:
    if not (VALIDATOR.exists() and CRDS.exists()):
        pytest.skip(f"no validator: {VALIDATOR} and its CRDs are not there (set VALIDATOR and CRDS)")
    done = subprocess.run(
        [sys.executable, str(VALIDATOR), "--crds", str(CRDS)],
        input=yaml.safe_dump(by_hand),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 objects, 0 problems" in done.stderr, done.stdout + done.stderr


# --- what it may do -------------------------------------------------------------------------------------------------


def test_the_driver_may_handle_pods_and_nothing_else(objects: Objects, schedule: dict[str, Any]) -> None:
    (role,), (binding,) = of_kind(objects, "Role"), of_kind(objects, "RoleBinding")
    (rule,) = role["rules"]
    assert rule["apiGroups"] == [""] and rule["resources"] == ["pods"] and "*" not in rule["verbs"]
    app, namespace = schedule["spec"]["template"], schedule["metadata"]["namespace"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] and binding["roleRef"]["kind"] == "Role"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": app["driver"]["serviceAccount"], "namespace": namespace}
    ]
    assert app["executor"]["serviceAccount"] != app["driver"]["serviceAccount"]


def test_only_sparks_own_flows_are_open() -> None:
    objects = list(yaml.safe_load_all(render("tests/everything")))
    policies = of_kind(objects, "NetworkPolicy")
    conf = named(objects, "ScheduledSparkApplication", "mtorl-features")["spec"]["template"]["sparkConf"]
    driver, blocks = int(conf["spark.driver.port"]), int(conf["spark.blockManager.port"])
    assert conf["spark.driver.blockManager.port"] == conf["spark.blockManager.port"]
    for source, target, port in (
        (EXECUTOR, DRIVER, driver),
        (EXECUTOR, DRIVER, blocks),
        (DRIVER, EXECUTOR, blocks),
        (EXECUTOR, EXECUTOR, blocks),
    ):
        assert allowed(policies, source, target, port), (source, target, port)
    others = [{"app.kubernetes.io/name": name} for name in ("mtorl-router", "mtorl-redis", "mtorl-jobs")]
    for other in others:
        for own in (DRIVER, EXECUTOR):
            for port in (driver, blocks, 6379, 8080):
                assert not allowed(policies, other, own, port) and not allowed(policies, own, other, port)
    assert not allowed(policies, DRIVER, DRIVER, driver)


# --- the pods that Spark makes ----------------------------------------------------------------------------------------


def _asked(method: str, url: str) -> tuple[str, str]:
    """Verb and resource of a request in a namespace, as a Role names them."""
    resource, _, name = urlsplit(url).path.partition("/namespaces/")[2].partition("/")[2].partition("/")
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    look = "watch" if "watch=true" in url else "get" if name else "list"
    return verbs.get(method, look), resource


class _ApiServer(BaseHTTPRequestHandler):
    """As much of the Kubernetes API as Spark asks for: objects are stored as they come, executors are said to run."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        store: dict[str, Any] = self.server.store  # type: ignore[attr-defined]
        path, length = urlsplit(self.path).path, int(self.headers.get("Content-Length") or 0)
        self.server.asked.append(_asked(self.command, self.path))  # type: ignore[attr-defined]
        found: Any = json.loads(self.rfile.read(length)) if length else None
        if self.command in ("POST", "PATCH") and found:
            found["metadata"].setdefault("uid", f"uid-{len(store)}")
            store[path if self.command == "PATCH" else f"{path}/{found['metadata']['name']}"] = found
        elif "watch=true" in self.path:
            self.close_connection = True
            found = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
        elif path.endswith("/pods"):
            items = [{**o, "status": {"phase": "Running"}} for o in _pods(store, "executor")]
            found = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        else:
            found = store.get(path)
        body = json.dumps(found or {"kind": "Status", "status": "Success"}).encode()
        self.send_response(200 if found or self.command == "DELETE" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _pods(store: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [o for o in list(store.values()) if o["kind"] == "Pod" and o["metadata"]["labels"]["spark-role"] == role]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadingHTTPServer]:
    """What lies in the API server after Spark has submitted the application and its driver has asked for executors."""
    if not which("java") and "JAVA_HOME" not in os.environ:
        pytest.fail("Spark needs Java 17 or newer: apt install default-jre-headless, or set JAVA_HOME")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer)
    server.store, server.asked = {}, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        _submit(server, tmp_path_factory.mktemp("spark"))
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _submit(server: ThreadingHTTPServer, folder: Path) -> None:
    """Submit as the operator does, then run the driver as its pod would, with an application that does nothing."""
    import pyspark

    schedule = named(list(yaml.safe_load_all(render(FOLDER))), "ScheduledSparkApplication", "mtorl-features")
    app, master = schedule["spec"]["template"], f"http://127.0.0.1:{server.server_address[1]}"
    home = Path(pyspark.__file__).parent
    environment = {**os.environ, "SPARK_HOME": str(home), "KUBECONFIG": "/nowhere", "PYSPARK_PYTHON": sys.executable}
    command = [str(home / "bin" / "spark-submit"), "--master", f"k8s://{master}"]
    conf = _operators_conf(schedule, folder)
    pairs = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
    submitted = subprocess.run(
        [*command, "--deploy-mode", "cluster", "--name", "mtorl-features-1", *pairs, app["mainApplicationFile"],
         *app["arguments"]],
        capture_output=True, text=True, env=environment, timeout=200,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr

    server.asked.clear()  # type: ignore[attr-defined]  # that was the operator's account, from here on it is the driver's
    store: dict[str, Any] = server.store  # type: ignore[attr-defined]
    (properties,) = [
        o["data"]["spark.properties"]
        for o in store.values()
        if o["kind"] == "ConfigMap" and "spark.properties" in o["data"]
    ]
    (folder / "spark.properties").write_text(properties)
    application = folder / "application.py"
    application.write_text(
        "import pathlib, time\nfrom pyspark import SparkContext\ncontext = SparkContext()\n"
        f"while not pathlib.Path({str(folder / 'end')!r}).exists():\n    time.sleep(0.1)\n"
        "context.stop()\n"
    )
    here = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
            "spark.kubernetes.driver.master": master, "spark.driver.port": "0", "spark.driver.blockManager.port": "0",
            "spark.kubernetes.executor.podTemplateFile": conf["spark.kubernetes.executor.podTemplateFile"]}  # fmt: skip
    pairs = [word for key, value in here.items() for word in ("--conf", f"{key}={value}")]
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [*command, "--deploy-mode", "client", "--properties-file", str(folder / "spark.properties"), *pairs,
             str(application)],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 200
        while not _pods(store, "executor") and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        (folder / "end").touch()
        driver.wait(timeout=100)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    assert _pods(store, "executor"), (folder / "driver.log").read_text()


def _operators_conf(schedule: dict[str, Any], folder: Path) -> dict[str, str]:
    """The settings that the operator (2.5.2) gives to spark-submit for the fields that the application has."""
    app, labels = schedule["spec"]["template"], schedule["metadata"]["labels"]
    conf = {
        "spark.kubernetes.namespace": schedule["metadata"]["namespace"],
        "spark.kubernetes.container.image": app["image"],
        "spark.kubernetes.submission.waitAppCompletion": "false",
        **app["sparkConf"],
        "spark.kubernetes.driver.pod.name": "mtorl-features-1-driver",
        "spark.executor.instances": app["executor"]["instances"],
    }
    for role in ("driver", "executor"):
        said = app[role]
        known = {"instances", "template", "serviceAccount", "cores", "coreLimit", "memory"}
        assert set(said) <= known, "teach this function what the operator does with it"
        template = folder / f"{role}.yaml"
        template.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **said["template"]}))
        conf |= {
            f"spark.kubernetes.{role}.podTemplateFile": str(template),
            f"spark.kubernetes.{role}.podTemplateContainerName": f"spark-kubernetes-{role}",
            f"spark.kubernetes.authenticate.{role}.serviceAccountName": said["serviceAccount"],
            f"spark.{role}.cores": said["cores"],
            f"spark.{role}.memory": said["memory"],
            f"spark.kubernetes.{role}.limit.cores": said["coreLimit"],
            **{f"spark.kubernetes.{role}.label.{key}": value for key, value in labels.items()},
        }
    return {key: str(value) for key, value in conf.items()}


@pytest.mark.integration
@pytest.mark.parametrize("role", ["driver", "executor"])
def test_sparks_pods_are_as_the_manifest_says(
    made: ThreadingHTTPServer, schedule: dict[str, Any], objects: Objects, role: str
) -> None:
    store: dict[str, Any] = made.store  # type: ignore[attr-defined]
    pod = _pods(store, role)[0]
    assert set(pod["metadata"]["labels"]) >= LABELS
    assert pod["metadata"]["labels"].items() >= (DRIVER if role == "driver" else EXECUTOR).items()
    spec, said = pod["spec"], schedule["spec"]["template"][role]
    template = said["template"]["spec"]
    assert spec["securityContext"] == template["securityContext"]
    assert spec["serviceAccountName"] == said["serviceAccount"]
    assert spec["automountServiceAccountToken"] is (role == "driver")
    assert spec.get("activeDeadlineSeconds") == template.get("activeDeadlineSeconds")
    (container,), (wanted,) = spec["containers"], template["containers"]
    assert container["securityContext"] == wanted["securityContext"]
    assert container["image"] == schedule["spec"]["template"]["image"]
    for what in ("requests", "limits"):
        assert set(container["resources"][what]) >= {"cpu", "memory"}
    # Volumes: ours, and no scratch folder that Spark would have added beside the one that we give it.
    environment = {e["name"]: e.get("value") for e in container["env"]}
    (scratch,) = [m["mountPath"] for m in wanted["volumeMounts"] if m["name"].startswith("spark-local-dir-")]
    assert environment["SPARK_LOCAL_DIRS"] == scratch
    assert [m for m in container["volumeMounts"] if m in wanted["volumeMounts"]] == wanted["volumeMounts"]
    if role == "driver":
        assert container["args"][0] == "driver"
        assert (
            container["args"][-len(schedule["spec"]["template"]["arguments"]) :]
            == (schedule["spec"]["template"]["arguments"])
        )
    else:
        assert container["args"] == ["executor"]


@pytest.mark.integration
def test_the_drivers_role_is_enough(made: ThreadingHTTPServer, objects: Objects) -> None:
    """And holds nothing that the driver never asks for. (It deletes one pod when an executor fails; none does here.)"""
    asked: list[tuple[str, str]] = made.asked  # type: ignore[attr-defined]
    (rule,) = of_kind(objects, "Role")[0]["rules"]
    granted = {(verb, resource) for verb in rule["verbs"] for resource in rule["resources"]}
    assert set(asked) | {("delete", "pods")} == granted

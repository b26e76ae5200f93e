import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

from tests.manifests.conftest import MANIFESTS, Objects, allowed, command_of, documents, parsed, rendered
from tests.repository import ROOT

pytestmark = pytest.mark.long

FOLDER = "tests/spark-features"
README = (MANIFESTS / "components" / "spark-features" / "README.md").read_text()
DRIVER = {"app.kubernetes.io/name": "mtorl-features", "spark-role": "driver"}
EXECUTOR = {**DRIVER, "spark-role": "executor"}


@pytest.fixture
def objects() -> Objects:
    return rendered(FOLDER)


@pytest.fixture
def schedule(objects: Objects) -> dict[str, Any]:
    return objects.named("ScheduledSparkApplication", "mtorl-features")


def test_it_calls_the_command_with_the_pipelines_arguments(objects: Objects, schedule: dict[str, Any]) -> None:
    context = parsed(schedule["spec"]["template"]["arguments"])
    pod = dict(objects.pods())["ScheduledSparkApplication/mtorl-features/driver"]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in pod["volumes"]}

    def volume(path: Any) -> dict[str, Any]:
        return volumes[mounts[str(Path(path).parent)]["name"]]

    assert context["trusted"], "otherwise one process validates the whole log first"
    assert volume(context["log"]) == volume(context["out"])
    config = objects.named("ConfigMap", volume(context["dataset"])["configMap"]["name"])
    assert Path(context["dataset"]).name in config["data"]
    training = (MANIFESTS / "pipelines" / "compiled" / "mtorl-train.yaml").read_text()
    defaults = documents(training)[0]["root"]["inputDefinitions"]["parameters"]
    assert context["own_decisions"] == defaults["own_decisions"]["defaultValue"] == "/mnt/mtorl/lake"


def test_the_same_application_compacts_the_lake(schedule: dict[str, Any]) -> None:
    (program,) = re.findall(r"jq '(.*?)' \| kubectl create", README, re.S)
    done = subprocess.run(["jq", program], input=json.dumps(schedule), capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    context = parsed(made["spec"]["arguments"])
    assert context["lake"] == "/mnt/mtorl/lake"
    assert {**made["spec"], "arguments": None} == {**schedule["spec"]["template"], "arguments": None}


def test_the_image_runs_the_command_with_spark(schedule: dict[str, Any]) -> None:
    file = Path(urlsplit(schedule["spec"]["template"]["mainApplicationFile"]).path)
    assert file.suffix == ".py", "spark-submit accepts Python only as .py"
    image = MANIFESTS / "images" / "spark"
    text = (image / "Dockerfile").read_text()
    assert re.search(rf"^COPY .*/{file.name} {file.parent}/$", text, re.M)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(image / file.name), "data", "build", "--help"], capture_output=True, env=environment
    )
    assert done.returncode == 0 and b"--trusted" in done.stdout, done.stderr
    option = {p.name: p for p in command_of(["data", "build"])[0].params}["engine"]
    assert f"{option.envvar}=spark" in text.split()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (spark,) = [r for r in map(Requirement, extras["spark"]) if r.name == "pyspark"]
    assert spark.specifier.contains(schedule["spec"]["template"]["sparkVersion"])


def test_the_driver_may_handle_pods_and_nothing_else(objects: Objects, schedule: dict[str, Any]) -> None:
    driver = schedule["spec"]["template"]["driver"]["serviceAccount"]
    (binding,) = [one for one in objects.of_kind("RoleBinding") if one["subjects"][0]["name"] == driver]
    role = objects.named("Role", binding["roleRef"]["name"])
    (rule,) = role["rules"]
    assert rule["apiGroups"] == [""] and rule["resources"] == ["pods"] and "*" not in rule["verbs"]
    app, namespace = schedule["spec"]["template"], schedule["metadata"]["namespace"]
    assert binding["roleRef"]["kind"] == "Role"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": driver, "namespace": namespace}]
    assert app["executor"]["serviceAccount"] != driver


def test_only_sparks_own_connections_are_allowed() -> None:
    objects = rendered("tests/everything")
    policies = objects.of_kind("NetworkPolicy")
    conf = objects.named("ScheduledSparkApplication", "mtorl-features")["spec"]["template"]["sparkConf"]
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

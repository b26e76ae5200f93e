"""Tests that compiled pipelines are reproducible, small, and equal to the committed files."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.notify.run_end import NODE
from components.trainer.train_job import POD_NAME, POD_UID, Pods
from pipelines import monitoring
from pipelines.cluster.compile import compile_all
from pipelines.profile import CLUSTER, LAPTOP, MODEL_REGISTRY_VARIABLES, ProfileError, number_in, on_cluster
from tests.manifests.conftest import CRDS, VALIDATOR, render, rendered
from tests.repository import ROOT

TRAIN, MONITOR = "mtorl-train", "mtorl-monitor"
TRAINING = (TRAIN, "mtorl-retrain")
KEPT = ROOT / "manifests" / "pipelines" / "compiled"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in compile_all(tmp_path_factory.mktemp("first"))}


OF_LAUNCHER, OF_ARTIFACT = 2000, 600
"""Approximate bytes of a container's environment plus KFP's launcher arguments, and of an artifact's paths."""


@cache
def documents_of(path: Path) -> list[dict[str, Any]]:
    """Read YAML with libyaml, because the Python parser takes longer than compiling."""
    return list(yaml.load_all(path.read_text(), yaml.CSafeLoader))


def spec_of(path: Path) -> dict[str, Any]:
    return documents_of(path)[0]


def platform_of(path: Path) -> dict[str, Any]:
    return documents_of(path)[1]["platforms"]["kubernetes"]


def executors(path: Path) -> dict[str, dict[str, Any]]:
    of = spec_of(path)["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in of.items()}


def settings(path: Path) -> dict[str, dict[str, Any]]:
    of = platform_of(path)["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): settings for name, settings in of.items()}


def tasks(path: Path) -> dict[str, dict[str, Any]]:
    root = spec_of(path)
    graphs = [root["root"]["dag"], *(part["dag"] for part in root["components"].values() if "dag" in part)]
    return {name: task for graph in graphs for name, task in graph["tasks"].items()}


def test_only_the_publish_step_gets_the_model_registry_secret(compiled: dict[str, Path]) -> None:
    for pipeline in TRAINING:
        secrets = {
            step: secret
            for step, of in settings(compiled[pipeline]).items()
            for secret in of.get("secretAsEnv", ())
            if secret["secretName"] == "mtorl-model-registry"
        }
        assert list(secrets) == ["publish"]
        (secret,) = secrets.values()
        assert secret["optional"]
        assert {key["envVar"] for key in secret["keyToEnv"]} == set(MODEL_REGISTRY_VARIABLES)


def test_manifests_contain_exactly_the_compiled_pipelines(compiled: dict[str, Path]) -> None:
    assert {path.name for path in KEPT.iterdir()} == {path.name for path in compiled.values()}
    for path in compiled.values():
        assert (KEPT / path.name).read_text() == path.read_text(), f"{KEPT / path.name} is stale: make compile"


def test_only_training_requests_an_accelerator(compiled: dict[str, Path], tmp_path: Path) -> None:
    accelerated = {
        (pipeline, step): container["resources"]["accelerator"]["resourceType"]
        for pipeline, path in compiled.items()
        for step, container in executors(path).items()
        if "accelerator" in container["resources"]
    }
    assert accelerated == {(name, "train-challenger"): "nvidia.com/gpu" for name in (*TRAINING, "mtorl-bootstrap")}
    assert settings(compiled[TRAIN])["train-challenger"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    on_cpus = {path.stem: path for path in compile_all(tmp_path, on_cluster(gpus=0))}[TRAIN]
    step = executors(on_cpus)["train-challenger"]["resources"]
    assert "accelerator" not in step and step["resourceMemoryLimit"] == "4Gi"


def test_several_gpus_or_nodes_run_in_separate_pods_and_the_step_requests_little(tmp_path: Path) -> None:
    assert not on_cluster(gpus=1, nodes=1).training_pods
    assert Pods.of(on_cluster(gpus=2, nodes=1).training_pods).gpus == 2
    compiled = {path.stem: path for path in compile_all(tmp_path, on_cluster(gpus=8, nodes=4))}
    step, said = executors(compiled[TRAIN])["train-challenger"], settings(compiled[TRAIN])["train-challenger"]
    assert "accelerator" not in step["resources"] and step["resources"]["resourceMemoryLimit"] == "2Gi"
    assert not {"tolerations", "emptyDirMounts"} & set(said)
    owner = {one["name"]: one["fieldPath"] for one in said["fieldPathAsEnv"]}
    assert (owner[POD_NAME], owner[POD_UID]) == ("metadata.name", "metadata.uid")
    given = tasks(compiled[TRAIN])["train-challenger"]["inputs"]["parameters"]
    pods = Pods.of(given["pods"]["runtimeValue"]["constant"])
    assert (pods.nodes, pods.gpus, pods.folder) == (4, 8, "/mnt/mtorl")
    assert pods.image == step["image"] and pods.memory == "16Gi"
    assert 0 < pods.seconds < int(said["activeDeadlineSeconds"]), "Trainer must time out first: it names the cause"


def test_environment_sets_the_number_of_gpus_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from pipelines.profile import CLUSTER; print(CLUSTER.gpus, CLUSTER.nodes)"
    environment = {**os.environ, "MTORL_GPUS": "8", "MTORL_NODES": "4"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == "8 4\n" and (CLUSTER.gpus, CLUSTER.nodes) == (1, 1)
    for wrong in ("two", "0"):
        monkeypatch.setenv("MTORL_NODES", wrong)
        with pytest.raises(ProfileError):
            number_in("MTORL_NODES", 1)


def test_the_role_of_steps_is_for_nothing_else_and_of_either_account_of_runs() -> None:
    objects = rendered("pipelines/platform")
    (role,), (binding,) = objects.of_kind("Role"), objects.of_kind("RoleBinding")
    allowed = {
        (group, one, *rule.get("resourceNames", ()), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for one in rule["resources"]
        for verb in rule["verbs"]
    }
    trainer = "trainer.kubeflow.org"
    assert allowed == {
        ("argoproj.io", "workflows", "get"),
        ("serving.kserve.io", "inferenceservices", "list"),
        *(("serving.kserve.io", "inferenceservices", "mtorl-challenger", verb) for verb in ("get", "patch")),
        ("apps", "deployments", "mtorl-challenger-predictor", "get"),
        *((trainer, "trainjobs", verb) for verb in ("create", "get", "delete")),
        ("", "pods", "list"),
        ("", "pods/log", "get"),
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    accounts = {(subject["name"], subject["namespace"]) for subject in binding["subjects"]}
    assert accounts == {(name, role["metadata"]["namespace"]) for name in ("default-editor", "pipeline-runner")}


def test_platform_permissions_are_accepted_by_the_server() -> None:
    if not (VALIDATOR.exists() and CRDS.exists()):
        pytest.skip(f"no validator: {VALIDATOR} and its CRDs are not there (set VALIDATOR and CRDS)")
    command = [sys.executable, str(VALIDATOR), "--crds", str(CRDS)]
    quota = (ROOT / "manifests" / "pipelines" / "platform" / "quota.yaml").read_text()
    given = f"{render('pipelines/platform')}\n---\n{quota}"
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", TRAINING)
def test_the_manual_lists_the_parameters_of_which_each_run_names_its_data(name: str) -> None:
    parameters = spec_of(KEPT / f"{name}.yaml")["root"]["inputDefinitions"]["parameters"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs" / "pipelines.md").read_text(), re.M)
    assert set(parameters) - {"code_version"} <= set(re.findall(r"\w+", " ".join(rows)))
    assert {name for name, one in parameters.items() if not one.get("isOptional")} == {"source", "dataset"}


def test_every_step_declares_resources_and_runs_its_component_on_the_volume(compiled: dict[str, Path]) -> None:
    wanted = {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"}
    for path in compiled.values():
        containers, kubernetes, of_tasks = executors(path), settings(path), tasks(path)
        assert set(containers) == set(kubernetes) <= set(of_tasks)
        for name, container in containers.items():
            of = path.name, name
            resources = container["resources"]
            assert wanted <= set(resources), of
            # On a full node, Kubernetes evicts pods that use more than they request.
            assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"], of
            assert kubernetes[name]["securityContext"]["runAsNonRoot"] is True, of
            assert kubernetes[name]["pvcMount"][0]["mountPath"] == "/mnt/mtorl", of
            retries = of_tasks[name]["retryPolicy"]
            assert retries["maxRetryCount"] == (3 if name == "train-challenger" else 2), of
            assert (retries["backoffFactor"], retries["backoffDuration"]) == (2, "10s"), of
            folder = container["command"][-1]
            assert folder.replace("_", "-") == re.sub(r"-\d+$", "", name), of
            assert (ROOT / "components" / folder / "component.py").exists()
            assert "pip install" not in " ".join(container["command"]), of


def test_only_steps_that_depend_on_their_inputs_alone_are_cached(compiled: dict[str, Path]) -> None:
    cached = {
        name: task
        for path in compiled.values()
        for name, task in tasks(path).items()
        if task.get("cachingOptions", {}).get("enableCache")
    }
    assert set(cached) == {
        *("ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate", "package", "smoke-test")
    }
    # With a placeholder such as the run id, the parameters would differ in each run, and no result would be reused.
    for name, task in cached.items():
        assert "{{$" not in str(task.get("inputs", {}).get("parameters", {})), name
    content = cached["ingest"]["inputs"]["parameters"]["content"]
    assert content["taskOutputParameter"]["producerTask"] == "fingerprint"
    for name in ("ingest", "build-features"):
        generation = cached[name]["inputs"]["parameters"]["generation"]
        key = generation["taskOutputParameter"]["outputParameterKey"]
        assert key == "generation", "a deleted output must be rebuilt"


def test_the_verdict_sees_the_running_experiment_and_the_monitor_keeps_its_state(compiled: dict[str, Path]) -> None:
    (mounted,) = settings(compiled[MONITOR])["verdict"]["configMapAsVolume"]
    assert mounted["configMapName"] == "mtorl-experiment" and mounted["optional"] is True
    defaults = spec_of(compiled[MONITOR])["root"]["inputDefinitions"]["parameters"]
    assert defaults["experiment"]["defaultValue"] == mounted["mountPath"]
    assert defaults["state"]["defaultValue"] == "/mnt/mtorl/monitor", "the monitor's state must be the hourly job's"
    # On a laptop, the volume is deleted after the run, so a monitor could not compare with earlier checks.
    assert "monitor" not in monitoring.build(LAPTOP).pipeline_spec.root.dag.tasks


def test_a_run_times_out_if_its_pods_are_never_scheduled(compiled: dict[str, Path]) -> None:
    """A step's own time limit starts only when its pod starts."""
    for name, path in compiled.items():
        assert platform_of(path)["pipelineConfig"]["activeDeadlineSeconds"] > 0, name
    limit = settings(compiled[TRAIN])["train-challenger"]["activeDeadlineSeconds"]
    assert 0 < int(limit) < int(platform_of(compiled[TRAIN])["pipelineConfig"]["activeDeadlineSeconds"])


def test_the_exit_step_runs_whatever_happened_before_it(compiled: dict[str, Path]) -> None:
    for path in compiled.values():
        last = tasks(path)["notify"]
        assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
        assert [name for name, of in settings(path).items() if NODE in str(of)] == ["notify"]
        assert (
            last["inputs"]["parameters"]["pipeline"]["runtimeValue"]["constant"]
            == spec_of(path)["pipelineInfo"]["name"]
        )


def test_every_path_of_a_step_is_on_a_mounted_volume(compiled: dict[str, Path]) -> None:
    """Files outside a mounted volume are lost when the pod ends."""
    for path in compiled.values():
        parameters = spec_of(path)["root"]["inputDefinitions"]["parameters"]
        defaults = {name: parameter.get("defaultValue") for name, parameter in parameters.items()}
        constants = re.findall(r"constant: (/\S+)", path.read_text())
        mounts = {mount["mountPath"] for of in settings(path).values() for mount in of["pvcMount"]}
        mounts |= {mount["mountPath"] for of in settings(path).values() for mount in of.get("configMapAsVolume", [])}
        found = [*constants, *(text for text in defaults.values() if isinstance(text, str) and text.startswith("/"))]
        assert found
        for place in found:
            assert any(place == mount or place.startswith(f"{mount}/") for mount in mounts), (path.name, place)


def test_the_optional_argo_retries_do_not_repeat_a_failed_step() -> None:
    """Exit code 1 means invalid input, for which a retry cannot help."""
    patch = yaml.safe_load((ROOT / "manifests" / "pipelines" / "platform" / "retries.yaml").read_text())
    strategy = yaml.safe_load(patch["data"]["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]
    assert strategy["retryPolicy"] == "Always"
    (codes,) = re.findall(r"exitCode in \[(.*?)\]", strategy["expression"])
    assert codes == '"137", "143"', "only SIGKILL (out of memory) and SIGTERM (lost node) are retried"


def test_a_placeholder_is_a_whole_value(compiled: dict[str, Path]) -> None:
    """On a cluster, a placeholder within a longer text is not replaced, but kfp.local replaces it."""
    for path in compiled.values():
        for placeholder in re.findall(r"constant: (.*\{\{\$.*)", path.read_text()):
            assert re.fullmatch(r"'?\{\{\$[\w.]+\}\}'?", placeholder), placeholder


def test_the_stored_workflow_is_small_enough_to_be_read(compiled: dict[str, Path]) -> None:
    """Argo compresses workflows above 1 MiB, and Kubeflow Pipelines can't read compressed workflows.

    A workflow contains each container's arguments seven times and each driver's arguments twice (KFP 2.17, Argo 4.0).
    """
    for name, path in compiled.items():
        spec = spec_of(path)
        containers = spec["deploymentSpec"]["executors"]
        total = 2 * len(json.dumps(spec))
        for component in spec["components"].values():
            if "executorLabel" in component:
                told = len(json.dumps(component)) + len(json.dumps(containers[component["executorLabel"]]))
                artifacts = len(component.get("inputDefinitions", {}).get("artifacts", {}))
                artifacts += len(component.get("outputDefinitions", {}).get("artifacts", {}))
                told_by_driver = told + OF_LAUNCHER + OF_ARTIFACT * artifacts
                total += 7 * told_by_driver + 2 * told
        assert total < 0.8 * 2**20, (name, total)

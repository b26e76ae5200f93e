"""What one object says about another: names, paths, versions, ports, and the commands of the runbooks."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from cli.main import app
from mtorl.dataset import DatasetSpec
from mtorl.experiment import Experiment
from tests.manifests.conftest import MANIFESTS, ROOT, Objects, named, of_kind, pod_specs, render

KILL = re.compile(r"kubectl -n mtorl get configmap mtorl-experiment -o json \| (sed '[^']+') \| kubectl replace -f -")
PREDICTOR = {"serving.kserve.io/inferenceservice": "mtorl-challenger"}  # KServe puts it on the pods that it makes


@pytest.fixture
def router(production: Objects) -> dict[str, Any]:
    """The router's configuration file."""
    config: dict[str, Any] = yaml.safe_load(_config_map(production, "mtorl-router-")["data"]["router.yaml"])
    return config


@pytest.fixture
def experiment(production: Objects) -> Experiment:
    return Experiment.from_dict(
        yaml.safe_load(named(production, "ConfigMap", "mtorl-experiment")["data"]["experiment.yaml"])
    )


def _config_map(objects: Objects, prefix: str) -> dict[str, Any]:
    (found,) = [o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"].startswith(prefix)]
    return found


def _pod(objects: Objects, name: str) -> dict[str, Any]:
    return dict(pod_specs(objects))[name]


def _mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


# --- the experiment -------------------------------------------------------------------------------------------------


def test_the_verdict_knows_every_metric_of_the_experiment(experiment: Experiment) -> None:
    from monitoring.verdict import METRICS

    metrics = experiment.metrics
    named = [metrics.primary, *metrics.secondary, *(guard.name for guard in metrics.guardrails)]
    assert set(named) <= {"gain_per_decision", *METRICS}


def test_experiment_starts_in_shadow_and_can_be_reloaded(production: Objects, experiment: Experiment) -> None:
    assert experiment.enabled and experiment.stage == "shadow"
    pod = _pod(production, "StatefulSet/mtorl-router")
    mount = _mounts(pod["containers"][0])["/etc/mtorl/experiment"]
    assert "subPath" not in mount, "a file mounted by subPath is never updated"
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["configMap"] == {"name": "mtorl-experiment"}  # the name that the runbooks use: no hash


def test_other_configuration_rolls_the_pods(production: Objects) -> None:
    for config in of_kind(production, "ConfigMap"):
        name = config["metadata"]["name"]
        assert name == "mtorl-experiment" or re.search(r"-[a-z0-9]{10}$", name), name


def test_the_runbooks_kill_switch_works(production: Objects) -> None:
    texts = [path.read_text() for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
    commands = {found[1] for text in texts if (found := KILL.search(text))}
    (sed,) = commands  # the same in all of them
    before = json.dumps(named(production, "ConfigMap", "mtorl-experiment"))
    after = subprocess.run(["sh", "-c", sed], input=before, capture_output=True, text=True, check=True).stdout
    killed = Experiment.from_dict(yaml.safe_load(json.loads(after)["data"]["experiment.yaml"]))
    assert not killed.enabled
    assert killed.arm_of("any user") == ("incumbent", 1.0)


def test_arms_answer_where_the_experiment_says(production: Objects, experiment: Experiment) -> None:
    runtime = named(production, "ServingRuntime", "mtorl-torchserve")["spec"]["containers"][0]
    assert runtime["env"][0] == {"name": "MODEL_NAME", "value": "{{.Labels.arm}}"}
    assert runtime["ports"][0]["containerPort"] == 8080, "KServe's Service points at the first port"
    for arm in experiment.arms:
        service = named(production, "InferenceService", f"mtorl-{arm.name}")
        labels = service["metadata"]["labels"]
        assert labels["arm"] == arm.name
        assert labels["networking.kserve.io/visibility"] == "cluster-local", "KServe would open it to the outside"
        assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert service["spec"]["predictor"]["minReplicas"] >= 2
        url = urlsplit(arm.url)
        assert (url.hostname, url.port) == (f"mtorl-{arm.name}-predictor", None)
        assert url.path == f"/v1/models/{arm.name}:predict"


def test_the_runtime_brings_no_envelope(production: Objects) -> None:
    runtime = named(production, "ServingRuntime", "mtorl-torchserve")
    assert "serving.kserve.io/server-type" not in runtime["metadata"].get("annotations", {})
    assert not any(f["autoSelect"] for f in runtime["spec"]["supportedModelFormats"])


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_versions_are_named_once(overlay: str) -> None:
    objects = list(yaml.safe_load_all(render(f"overlays/{overlay}")))
    models = yaml.safe_load((MANIFESTS / "overlays" / overlay / "models.yaml").read_text())["data"]
    for arm, path in models.items():
        uri = named(objects, "InferenceService", f"mtorl-{arm}")["spec"]["predictor"]["model"]["storageUri"]
        assert uri == f"pvc://mtorl-data/{path}"
        assert re.fullmatch(r"registry/\w+/[0-9a-f]{12}", path), "a version's folder, which is written once"
    environment = _pod(objects, "CronJob/mtorl-drift")["containers"][0]["env"]
    assert {"name": "ARTIFACT", "value": f"/mnt/mtorl/{models['challenger']}/artifact"} in environment
    assert named(objects, "PersistentVolumeClaim", "mtorl-data")
    assert not [o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"] == "mtorl-models"]


# --- the router -----------------------------------------------------------------------------------------------------


def test_router_finds_its_files(production: Objects, router: dict[str, Any]) -> None:
    pod = _pod(production, "StatefulSet/mtorl-router")
    main, export = pod["containers"]
    mounts = _mounts(main)
    for file in ("experiment", "dataset"):
        assert mounts[str(Path(router[file]).parent)]["name"] == file
    assert main["args"] == ["--run-config=/etc/mtorl/config/router.yaml"] and "/etc/mtorl/config" in mounts
    assert mounts[router["feature_repo"]]["name"] == "feature-store"
    (claim,) = named(production, "StatefulSet", "mtorl-router")["spec"]["volumeClaimTemplates"]
    for durable in (router["ledger"], router["spool"]):
        assert mounts[str(Path(durable).parent)]["name"] == claim["metadata"]["name"]
    assert router["spool"] in export["args"][0]
    for probe in ("startupProbe", "readinessProbe"):
        assert main[probe]["httpGet"] == {"path": f"/v1/models/{router['model_name']}", "port": "http"}
    assert {"name": "http", "containerPort": router["port"]} in main["ports"]


def test_router_accepts_its_settings(router: dict[str, Any], tmp_path: Path) -> None:
    config = pytest.importorskip("serving.router.config")
    path = tmp_path / "router.yaml"
    path.write_text(yaml.safe_dump(router))
    assert config.RouterConfig.load(path).host == "0.0.0.0", "a pod must be reached from outside"


def test_router_knows_the_channels(production: Objects, router: dict[str, Any], experiment: Experiment) -> None:
    from mtorl.simulator import Simulator, SimulatorConfig

    spec = DatasetSpec.from_dict(yaml.safe_load(_config_map(production, "mtorl-dataset-")["data"]["dataset.yaml"]))
    assert spec == DatasetSpec.load("simulator")
    assert set(router["cost_cap"]) == set(spec.channels)
    assert experiment.default_channel in router["cost_cap"]
    assert router["cost_cap"] == pytest.approx(Simulator(SimulatorConfig(users=10)).cost_cap)


@pytest.mark.parametrize("overlay", ["overlays/dev", "overlays/production"])
def test_a_ledger_in_a_file_means_one_router(overlay: str) -> None:
    """Each replica would admit the whole budget."""
    objects = list(yaml.safe_load_all(render(overlay)))
    router = yaml.safe_load(_config_map(objects, "mtorl-router-")["data"]["router.yaml"])
    if router["ledger"].startswith("/"):
        assert named(objects, "StatefulSet", "mtorl-router")["spec"]["replicas"] == 1
        scaled = [o["spec"]["scaleTargetRef"]["name"] for o in of_kind(objects, "HorizontalPodAutoscaler")]
        assert "mtorl-router" not in scaled


def test_more_routers_are_spread_and_bounded() -> None:
    objects = list(yaml.safe_load_all(render("tests/everything")))
    assert named(objects, "StatefulSet", "mtorl-router")["spec"]["replicas"] == 2
    assert named(objects, "HorizontalPodAutoscaler", "mtorl-router")["spec"]["minReplicas"] == 2
    assert named(objects, "PodDisruptionBudget", "mtorl-router")["spec"]["minAvailable"] == 1
    assert len(_pod(objects, "StatefulSet/mtorl-router")["topologySpreadConstraints"]) == 2


# --- features, jobs, pipelines --------------------------------------------------------------------------------------


def test_one_feature_store_for_reader_and_writer(production: Objects, router: dict[str, Any]) -> None:
    from features.store import SERVICE

    assert router["feature_service"] == SERVICE
    config = yaml.safe_load(_config_map(production, "mtorl-feature-store-")["data"]["feature_store.yaml"])
    laptop = yaml.safe_load((ROOT / "features" / "feature_repo" / "feature_store.yaml").read_text())
    for key in ("project", "provider", "entity_key_serialization_version", "materialization"):
        assert config[key] == laptop[key], f"{key}: the registry of the pipeline and the jobs would disagree"
    host, _, rest = config["online_store"]["connection_string"].partition(":")
    (port,) = named(production, "Service", host)["spec"]["ports"]
    assert rest == f"{port['port']},password=${{REDIS_PASSWORD}}"
    for name in ("StatefulSet/mtorl-router", "CronJob/mtorl-materialize"):
        assert "REDIS_PASSWORD" in [e["name"] for e in _pod(production, name)["containers"][0]["env"]], name
    pipeline = next(yaml.safe_load_all((MANIFESTS / "pipelines" / "mtorl-train.yaml").read_text()))
    repository = pipeline["root"]["inputDefinitions"]["parameters"]["feature_repo"]["defaultValue"]
    assert config["registry"]["path"] == f"{repository}/registry.db"


def test_pipelines_run_the_image_of_the_jobs(production: Objects) -> None:
    (image,) = {c["image"] for n, pod in pod_specs(production) if n.startswith("CronJob/") for c in pod["containers"]}
    for path in (MANIFESTS / "pipelines").glob("*.yaml"):
        assert set(re.findall(r"image: (\S+)", path.read_text())) == {image}, path.name


def test_materialize_is_called_as_the_command_takes_it(production: Objects, router: dict[str, Any]) -> None:
    container = _pod(production, "CronJob/mtorl-materialize")["containers"][0]
    context = _parsed(container["args"])
    assert context["dataset"] == router["dataset"] and _mounts(container)["/etc/mtorl/dataset"]["name"] == "dataset"
    assert _mounts(container)[f"{context['feature_repo']}/feature_store.yaml"]["name"] == "feature-store"
    assert _mounts(container)["/mnt/mtorl"]["readOnly"]


@pytest.mark.parametrize(("said", "job"), [(0, 0), (3, 0), (1, 1)])
def test_a_check_that_finds_drift_is_a_success(production: Objects, tmp_path: Path, said: int, job: int) -> None:
    container = _pod(production, "CronJob/mtorl-drift")["containers"][0]
    fake = tmp_path / "mtorl"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/args\nexit {said}\n')
    fake.chmod(0o755)
    environment = {e["name"]: e["value"] for e in container["env"]}
    done = subprocess.run(
        [*container["command"], *container["args"]], env={**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert done.returncode == job
    context = _parsed((tmp_path / "args").read_text().splitlines())
    assert str(context["artifact"]) == environment["ARTIFACT"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", context["since"])
    assert "/mnt/mtorl/decision_log" in _pod(production, "StatefulSet/mtorl-router")["containers"][1]["args"][0]


def _parsed(args: list[str]) -> dict[str, Any]:
    """The parameters that the real command reads from an argument list, without running it."""
    group = typer.main.get_command(app)
    command = group.commands[args[0]]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = command.make_context(args[0], args[1:]).params
    return parameters


# --- network --------------------------------------------------------------------------------------------------------


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        e["operator"] == "Exists" and e["key"] in labels for e in selector.get("matchExpressions", [])
    )


def _allowed(policies: Objects, source: dict[str, str], target: dict[str, str], port: int | str) -> bool:
    """Whether both ends allow a flow between two pods of the namespace."""

    def end(direction: str, own: dict[str, str], other: dict[str, str]) -> bool:
        peers = "to" if direction == "Egress" else "from"
        return any(
            _matches(policy["spec"]["podSelector"], own)
            and any(
                "podSelector" in p and "namespaceSelector" not in p and _matches(p["podSelector"], other)
                for p in rule.get(peers, [])
            )
            and port in [p["port"] for p in rule.get("ports", [])]
            for policy in policies
            if direction in policy["spec"]["policyTypes"]
            for rule in policy["spec"].get(direction.lower(), [])
        )

    return end("Egress", source, target) and end("Ingress", target, source)


def _labels(objects: Objects, kind: str, name: str) -> dict[str, str]:
    spec = named(objects, kind, name)["spec"]
    template = spec["jobTemplate"]["spec"]["template"] if kind == "CronJob" else spec["template"]
    labels: dict[str, str] = template["metadata"]["labels"]
    return labels


def test_only_the_listed_flows_are_open(production: Objects) -> None:
    policies = of_kind(production, "NetworkPolicy")
    deny = named(policies, "NetworkPolicy", "mtorl-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    router = _labels(production, "StatefulSet", "mtorl-router")
    redis = _labels(production, "StatefulSet", "mtorl-redis")
    materialize = _labels(production, "CronJob", "mtorl-materialize")
    assert _allowed(policies, router, PREDICTOR, 8080)
    assert _allowed(policies, router, redis, 6379)
    assert _allowed(policies, materialize, redis, 6379)
    for source, target, port in (
        (PREDICTOR, redis, 6379),
        (materialize, PREDICTOR, 8080),
        (redis, PREDICTOR, 8080),
        (router, PREDICTOR, 8082),
        (PREDICTOR, PREDICTOR, 8080),
    ):
        assert not _allowed(policies, source, target, port), (source, target, port)


def test_model_servers_call_nobody(production: Objects) -> None:
    for policy in of_kind(production, "NetworkPolicy"):
        if policy["spec"]["podSelector"] and _matches(policy["spec"]["podSelector"], PREDICTOR):
            assert policy["spec"]["policyTypes"] == ["Ingress"]

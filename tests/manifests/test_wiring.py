"""Tests that objects refer to each other correctly, by names, paths, versions and ports."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from serving.registry import FIRST
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import ExperimentFiles, LiveExperiments
from tests.manifests.conftest import (
    MANIFESTS,
    Objects,
    allowed,
    containers,
    documents,
    experiment_of,
    mounts_of,
    parsed,
    rendered,
    selects,
)
from tests.repository import ROOT

KILL = re.compile(r"patch \$\(kubectl -n \"\$NS\" get exp -o name\) --type merge -p '(\S+)'")
EMERGENCY = re.compile(
    r"xargs -I\{\} kubectl -n \"\$NS\" patch configmap mtorl-experiment --type merge -p '(\S+:\S+ \S+)'"
)
SIMULATED = DatasetSpec.load("simulator")
PREDICTOR = {"serving.kserve.io/inferenceservice": "mtorl-challenger"}  # set by KServe on its pods


@pytest.fixture
def experiment() -> Experiment:
    return experiment_of(MANIFESTS / "examples" / "experiment.yaml")


def test_experiments_are_reloaded_and_other_configuration_restarts_the_pods(production: Objects) -> None:
    pod = production.pod_spec("StatefulSet/mtorl-router")
    mount = mounts_of(pod["containers"][0])["/etc/mtorl/experiment"]
    assert "subPath" not in mount, "a file mounted by subPath is never updated"
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["configMap"] == {"name": "mtorl-experiment", "optional": True}  # runbooks use the name: no hash
    for config in production.of_kind("ConfigMap"):
        name = config["metadata"]["name"]
        no_pod_reads_it = config["metadata"]["labels"].get("grafana_dashboard") == "1"
        assert name == "mtorl-experiment" or no_pod_reads_it or re.search(r"-[a-z0-9]{10}$", name), name


def test_the_runbooks_kill_switches_work(experiment: Experiment, tmp_path: Path) -> None:
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    (switch,) = {found[1] for text in pages.values() if (found := KILL.search(text))}  # the same in all pages
    assert json.loads(switch) == {"spec": {"enabled": False}}
    emergency = EMERGENCY.search(pages["MtorlOperatorDown"])
    assert emergency and not any(EMERGENCY.search(text) for name, text in pages.items() if name != "MtorlOperatorDown")
    data = {"spring.yaml": yaml.safe_dump(experiment.model_dump(mode="json"))}  # as the operator writes it
    data |= json.loads(emergency[1].replace("{}", "spring"))["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    live = LiveExperiments(ExperimentFiles(tmp_path), SIMULATED, Health(), tmp_path / "last-good")
    (killed,) = live.experiments
    assert killed == experiment.replace(enabled=False)
    assert killed.arm_of("any user") == ("incumbent", 1.0)


def test_arms_serve_at_the_experiments_endpoints(production: Objects, experiment: Experiment) -> None:
    served = production.named("ServingRuntime", "mtorl-torchserve")
    assert "serving.kserve.io/server-type" not in served["metadata"].get("annotations", {}), "it adds no envelope"
    assert not any(f["autoSelect"] for f in served["spec"]["supportedModelFormats"])
    runtime = served["spec"]["containers"][0]
    assert runtime["env"][0] == {"name": "MODEL_NAME", "value": "{{.Labels.arm}}"}
    assert runtime["ports"][0]["containerPort"] == 8080, "KServe's Service uses the first port"
    for arm in experiment.arms:
        service = production.named("InferenceService", f"mtorl-{arm.name}")
        labels = service["metadata"]["labels"]
        assert labels["arm"] == arm.name
        assert labels["networking.kserve.io/visibility"] == "cluster-local", "KServe would expose it to the outside"
        assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert service["spec"]["predictor"]["minReplicas"] >= 2
        url = urlsplit(arm.url)
        assert (url.hostname, url.port) == (f"mtorl-{arm.name}-predictor", None)
        assert url.path == f"/v1/models/{arm.name}:predict"


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_model_versions_are_named_once(overlay: str) -> None:
    objects = rendered(f"overlays/{overlay}")
    models = yaml.safe_load((MANIFESTS / "overlays" / overlay / "models.yaml").read_text())["data"]
    from_annotation = {"fieldRef": {"fieldPath": "metadata.annotations['mtorl-kubeflow/model']"}}
    for arm, version in models.items():
        pod = objects.pod_spec(f"InferenceService/mtorl-{arm}")
        assert pod["annotations"] == {"mtorl-kubeflow/model": version}
        for container in containers(pod):
            assert {"name": "MODEL_VERSION", "valueFrom": from_annotation} in container["env"]
            (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == "/mnt/models"]
            (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
            assert volume["persistentVolumeClaim"] == {"claimName": "mtorl-data"} and mount["readOnly"]
            assert mount["subPath"] == "registry", "a mount of a missing version would create an empty folder"
        assert version == f"{arm}/{FIRST}", "the bootstrap's version"
    assert not [o for o in objects.of_kind("ConfigMap") if o["metadata"]["name"] == "mtorl-models"]


def test_a_pod_waits_for_its_model_and_names_it(production: Objects, tmp_path: Path) -> None:
    predictor = production.named("InferenceService", "mtorl-challenger")["spec"]["predictor"]
    (waiting,) = predictor["initContainers"]
    script = waiting["args"][0].replace("/mnt/models", str(tmp_path)).replace("sleep 2", "sleep 0.05")
    (tmp_path / "challenger" / "other").mkdir(parents=True)
    (tmp_path / "challenger" / FIRST).mkdir()  # empty, as left by a mount
    command = [*waiting["command"], script]
    environment = {**os.environ, "MODEL_VERSION": f"challenger/{FIRST}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"no model registry/challenger/{FIRST} " in line and "challenger/other" in line
        (tmp_path / "challenger" / FIRST / "artifact").mkdir()
        (tmp_path / "challenger" / FIRST / "artifact" / "model.json").touch()
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == "", "log the wait once"


def test_router_finds_its_files(production: Objects, router: dict[str, Any]) -> None:
    pod = production.pod_spec("StatefulSet/mtorl-router")
    (main,) = pod["containers"]
    mounts = mounts_of(main)
    assert mounts[router["experiment"]]["name"] == "experiment", "mount the folder: a file would not be updated"
    assert mounts[str(Path(router["dataset"]).parent)]["name"] == "dataset"
    assert main["args"] == ["--run-config=/etc/mtorl/config/router.yaml"] and "/etc/mtorl/config" in mounts
    assert mounts[router["feature_repo"]]["name"] == "feature-store"
    (claim,) = production.named("StatefulSet", "mtorl-router")["spec"]["volumeClaimTemplates"]
    assert mounts[str(Path(router["spool"]).parent)]["name"] == claim["metadata"]["name"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi" and router["spool_max_bytes"] <= 8 * 2**30
    # A waiting router gets no requests but is not restarted; a hanging one is restarted.
    for probe, path in (("startupProbe", "live"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert main[probe]["httpGet"] == {"path": f"/health/{path}", "port": "http"}
    assert {"name": "http", "containerPort": router["port"]} in main["ports"]
    assert router["auth"]["kind"] == "token", "decisions and reports need a token"
    tokens = Path(router["auth"]["file"])
    (volume,) = (v for v in pod["volumes"] if v["name"] == mounts[str(tokens.parent)]["name"])
    assert [item["path"] for item in volume["secret"]["items"]] == [tokens.name]


def test_router_accepts_its_settings_and_channels(
    production: Objects, router: dict[str, Any], experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pytest.importorskip("serving.router.ops.settings")
    path = tmp_path / "router.yaml"
    path.write_text(yaml.safe_dump(router))
    monkeypatch.setenv("MTORL_LAKE", production.config_map("mtorl-lake-")["data"]["MTORL_LAKE"])
    settings = config.RouterSettings.load(path)
    assert settings.host == "0.0.0.0", "a pod must be reachable from outside"
    mount = mounts_of(production.pod_spec("StatefulSet/mtorl-router")["containers"][0])["/mnt/mtorl"]
    assert settings.lake == "/mnt/mtorl/lake" and "readOnly" not in mount
    spec = DatasetSpec.from_dict(yaml.safe_load(production.config_map("mtorl-dataset-")["data"]["dataset.yaml"]))
    assert spec == SIMULATED and experiment.default_channel in router["cost_cap"]
    assert router["cost_cap"] == pytest.approx(Simulator(SimulatorConfig(users=10)).cost_cap)


_JOBS = ("compact", "materialize", "monitor")
WITH_LAKE = ("StatefulSet/mtorl-router", "Deployment/mtorl-operator", *(f"CronJob/mtorl-{job}" for job in _JOBS))


def test_all_pods_use_the_same_lake(production: Objects) -> None:
    lake = {"configMapRef": {"name": production.config_map("mtorl-lake-")["metadata"]["name"]}}
    for name, pod in production.pods():
        for container in pod["containers"]:
            assert ([lake] if name in WITH_LAKE else None) == container.get("envFrom"), name
            uses = "$(MTORL_LAKE)" in str(container.get("args"))
            assert uses is (name in WITH_LAKE[1:]), name
        for container in pod.get("initContainers", ()):
            reads_settings = "router.yaml" in str(container.get("args"))
            assert ([lake] if reads_settings else None) == container.get("envFrom"), container["name"]


def test_a_lake_in_a_bucket_has_credentials() -> None:
    folder = MANIFESTS / "tests" / "object-store"
    _, patch = (folder / "kustomization.yaml").read_text().split("\npatches:\n")
    assert patch in (MANIFESTS / "components" / "object-store" / "README.md").read_text()
    objects = rendered("tests/object-store")
    assert objects.config_map("mtorl-lake-")["data"]["MTORL_LAKE"].startswith("s3://")
    policies = objects.of_kind("NetworkPolicy")
    pods = {name: _labels(objects, *name.split("/")) for name in WITH_LAKE}
    for name in WITH_LAKE:
        pod = objects.pod_spec(name)
        assert pod["containers"][0]["envFrom"][1] == {"secretRef": {"name": "mtorl-lake", "optional": True}}, name
    for name, labels in (pods | {"a step of a pipeline": {"workflows.argoproj.io/workflow": "any"}}).items():
        ways_out = {
            port["port"]
            for policy in policies
            if selects(policy, labels)
            for rule in policy["spec"].get("egress", [])
            if "to" not in rule
            for port in rule["ports"]
        }
        assert {443, 9000} <= ways_out, name


def test_routers_share_one_durable_ledger(production: Objects, router: dict[str, Any]) -> None:
    """With a ledger file of its own, each router would spend the whole budget."""
    from serving.ledger.location import locate

    service = production.named("Service", locate(router["ledger"]).host)
    ledger = production.named("StatefulSet", "mtorl-ledger")
    labels = ledger["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    password = ledger["spec"]["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]
    given = {e["name"]: e for e in production.pod_spec("StatefulSet/mtorl-router")["containers"][0]["env"]}
    assert given["MTORL_LEDGER_PASSWORD"]["valueFrom"] == password
    conf = production.config_map("mtorl-ledger-")["data"]["redis.conf"].splitlines()
    # Only the first router creates accounts, because the others can't tell a new ledger from one that lost its data.
    wait = production.pod_spec("StatefulSet/mtorl-router")["initContainers"][0]
    assert wait["env"] == [{"name": "MTORL_LEDGER_PASSWORD", "valueFrom": password}]
    assert 'exec mtorl ledger wait "/etc/mtorl/config/router.yaml"' in wait["args"][0]
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(conf)
    policies = production.of_kind("NetworkPolicy")
    assert allowed(policies, _labels(production, "StatefulSet", "mtorl-router"), labels, 6379)
    assert not allowed(policies, _labels(production, "CronJob", "mtorl-materialize"), labels, 6379)


def test_routers_send_to_the_feed_which_writes_the_store_they_read(production: Objects, router: dict[str, Any]) -> None:
    reader, pod = production.pod_spec("StatefulSet/mtorl-router"), production.pod_spec("Deployment/mtorl-feed")
    service = production.named("Service", str(urlsplit(router["sink"]).hostname))
    labels = _labels(production, "Deployment", "mtorl-feed")
    assert service["spec"]["selector"].items() <= labels.items() and service["spec"]["ports"][0]["port"] == 80
    (container,) = pod["containers"]
    given = parsed(container["args"])
    assert given["port"] == container["ports"][0]["containerPort"]
    read, written = (mounts_of(one["containers"][0]) for one in (reader, pod))
    for path in (str(given["feature_repo"]), str(Path(given["dataset"]).parent), "/mnt/mtorl"):
        volumes = [
            {v["name"]: v for v in one["volumes"]}[m[path]["name"]] for one, m in ((reader, read), (pod, written))
        ]
        assert volumes[0] == volumes[1], path
    policies = production.of_kind("NetworkPolicy")
    routers, redis = (_labels(production, "StatefulSet", name) for name in ("mtorl-router", "mtorl-redis"))
    assert allowed(policies, routers, labels, given["port"]) and allowed(policies, labels, redis, 6379)
    for other in (redis, PREDICTOR, _labels(production, "CronJob", "mtorl-materialize")):
        assert not allowed(policies, other, labels, given["port"]) and not allowed(policies, labels, PREDICTOR, 8080)


def test_one_feature_store_for_reader_and_writer(production: Objects, router: dict[str, Any]) -> None:
    from mtorl.window.window import AD_DECISION

    assert router["feature_service"] == AD_DECISION
    config = yaml.safe_load(production.config_map("mtorl-feature-store-")["data"]["feature_store.yaml"])
    laptop = yaml.safe_load((ROOT / "features" / "feature_repo" / "feature_store.yaml").read_text())
    for key in ("project", "provider", "entity_key_serialization_version", "materialization"):
        assert config[key] == laptop[key], f"{key}: pipeline and jobs would disagree on the registry"
    writer = yaml.safe_load(production.config_map("mtorl-jobs-feature-store-")["data"]["feature_store.yaml"])
    assert writer.pop("offline_store")["type"] == laptop["offline_store"]["type"]
    stores = [made["online_store"].pop("connection_string").split(",") for made in (config, writer)]
    assert writer == config, "writer and reader need the same store"
    (place, password), (elsewhere, other) = (store[:2] for store in stores)
    assert (place, password) == (elsewhere, other), "writer and reader need the same store"
    host, port = place.split(":")
    assert int(port) == production.named("Service", host)["spec"]["ports"][0]["port"]
    assert password == "password=${REDIS_PASSWORD}"
    reader, writes = (dict(option.split("=") for option in store[2:]) for store in stores)
    assert reader.pop("retry") == "null", "retries would block the thread of an arm"
    for limits, longest in ((reader, 0.6 * router["deadline_ms"] / 1000), (writes, 60.0)):
        assert set(limits) == {"socket_timeout", "socket_connect_timeout"}, "a lost node would block the caller"
        assert all(0 < float(seconds) <= longest for seconds in limits.values())
    for name in ("StatefulSet/mtorl-router", "CronJob/mtorl-materialize"):
        assert "REDIS_PASSWORD" in [e["name"] for e in production.pod_spec(name)["containers"][0]["env"]], name
    pipeline = documents((MANIFESTS / "pipelines" / "compiled" / "mtorl-train.yaml").read_text())[0]
    repository = pipeline["root"]["inputDefinitions"]["parameters"]["feature_repo"]["defaultValue"]
    assert config["registry"]["path"] == f"{repository}/registry.db"


def _labels(objects: Objects, kind: str, name: str) -> dict[str, str]:
    spec = objects.named(kind, name)["spec"]
    template = spec["jobTemplate"]["spec"]["template"] if kind == "CronJob" else spec["template"]
    labels: dict[str, str] = template["metadata"]["labels"]
    return labels


def test_only_the_listed_connections_are_allowed(production: Objects) -> None:
    policies = production.of_kind("NetworkPolicy")
    deny = policies.named("NetworkPolicy", "mtorl-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    router = _labels(production, "StatefulSet", "mtorl-router")
    redis = _labels(production, "StatefulSet", "mtorl-redis")
    materialize = _labels(production, "CronJob", "mtorl-materialize")
    for source, target, port, is_open in (
        (router, PREDICTOR, 8080, True),
        (router, redis, 6379, True),
        (materialize, redis, 6379, True),
        (PREDICTOR, redis, 6379, False),
        (materialize, PREDICTOR, 8080, False),
        (redis, PREDICTOR, 8080, False),
        (router, PREDICTOR, 8082, False),
        (PREDICTOR, PREDICTOR, 8080, False),
    ):
        assert allowed(policies, source, target, port) is is_open, (source, target, port)
    for policy in policies:
        if policy["spec"]["podSelector"] and selects(policy, PREDICTOR):
            assert policy["spec"]["policyTypes"] == ["Ingress"], "model servers open no connections"
        for rule in policy["spec"].get("egress", []):
            ports = [port["port"] for port in rule.get("ports", [])]
            assert 9093 not in ports, f"{policy['metadata']['name']}: only Prometheus may call Alertmanager"


def test_the_operator_may_write_only_what_routers_read(production: Objects) -> None:
    role = production.named("Role", "mtorl-operator")
    for rule in role["rules"]:
        named_or_made = "resourceNames" in rule or rule["verbs"] == ["create"]
        assert named_or_made or rule["apiGroups"] == ["mtorl-kubeflow.github.io"], rule
    (leases,) = (rule for rule in role["rules"] if rule["resources"] == ["leases"])
    assert leases["verbs"] == ["get", "update"]
    assert leases["resourceNames"] == [o["metadata"]["name"] for o in production.of_kind("Lease")]
    written = production.named("ConfigMap", "mtorl-experiment")
    assert "data" not in written, "an apply must not change the active experiments"


def test_without_the_prometheus_operator_only_its_resources_are_missing() -> None:
    whole, part = (rendered(f"{name}") for name in ("overlays/dev", "tests/without-prometheus-operator"))
    left_out = [o for o in whole if o not in part]
    assert left_out and {o["apiVersion"].split("/")[0] for o in left_out} == {"monitoring.coreos.com"}
    assert not [o for o in part if o not in whole or o["apiVersion"].startswith("monitoring.coreos.com")]

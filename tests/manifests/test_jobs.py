"""Tests of pods that run to completion, such as those of CronJobs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.collect.compact import CLOSED_AFTER
from mtorl.log.dataset import DatasetSpec
from tests.manifests.conftest import MANIFESTS, Objects, mounts_of, parsed
from tests.repository import ROOT

SIMULATED = DatasetSpec.load("simulator")


@pytest.fixture
def pipelines_repository(tmp_path: Path) -> Path:
    """Return a feature repository of an older log, as a pipeline leaves it."""
    from features.offline import store

    store.create(tmp_path / "pipeline", SIMULATED, _log(tmp_path / "then.parquet", 0.5))
    return tmp_path / "pipeline"


def _log(path: Path, part: float) -> Path:
    from mtorl.log.touchpoints import write_log
    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    log = Simulator(SimulatorConfig(users=20)).log()
    write_log(log[log["timestamp"] <= log["timestamp"].quantile(part)], path, SIMULATED)
    return path


def _repository(objects: Objects, prefix: str, pipelines: Path, folder: Path) -> Path:
    """Return a pod's feature repository with local paths and with SQLite in place of Redis."""
    config = yaml.safe_load(objects.config_map(prefix)["data"]["feature_store.yaml"])
    config["registry"]["path"] = str(pipelines / "registry.db")
    config["online_store"] = {"type": "sqlite", "path": str(pipelines / "online.db")}
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.integration
def test_the_routers_image_can_open_the_pipelines_repository(
    production: Objects, router: dict[str, Any], pipelines_repository: Path, tmp_path: Path
) -> None:
    """The router's image lacks the libraries of the offline store."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not re.search(r"ibis|pyspark|torch|duckdb|mtorl", " ".join(extras["router"]))
    repository = _repository(production, "mtorl-feature-store-", pipelines_repository, tmp_path / "router")
    code = f"""
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(["ibis", "pyspark", "plotly", "torch"]))    # as if they were not installed
from serving.router.flow.features import FeastSource
FeastSource(Path({str(repository)!r}), {router["feature_service"]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_the_job_materializes_the_log_as_is(production: Objects, pipelines_repository: Path, tmp_path: Path) -> None:
    """The job must not write to the registry, which belongs to the pipelines."""
    import pandas as pd
    from feast import FeatureStore

    from features.offline import store
    from mtorl.window.packed import unpack
    from mtorl.window.window import HISTORY, PACKED

    repository = _repository(production, "mtorl-jobs-feature-store-", pipelines_repository, tmp_path / "job")
    before = (pipelines_repository / "registry.db").read_bytes()
    log = pd.read_parquet(_log(tmp_path / "now.parquet", 1.0))
    store.materialize(repository, SIMULATED, tmp_path / "now.parquet")
    assert (pipelines_repository / "registry.db").read_bytes() == before
    newest = log.groupby("user_id")["timestamp"].max()
    answer = FeatureStore(repo_path=str(repository)).get_online_features(
        features=[f"{HISTORY}:{PACKED}"], entity_rows=[{"user_id": user} for user in newest.index]
    )
    online = [unpack(value)["hist_timestamp"][-1] for value in answer.to_dict()[PACKED]]
    assert online == [time.value // 1000 for time in newest.astype("datetime64[ns, UTC]")]


def test_pipelines_use_the_image_of_the_jobs(production: Objects) -> None:
    (image,) = {c["image"] for n, pod in production.pods() if n.startswith("CronJob/") for c in pod["containers"]}
    compiled = list((MANIFESTS / "pipelines" / "compiled").glob("*.yaml"))
    assert compiled
    for path in compiled:
        assert set(re.findall(r"image: (\S+)", path.read_text())) == {image}, path.name


def test_jobs_read_mounted_files(production: Objects, router: dict[str, Any]) -> None:
    container = production.pod_spec("CronJob/mtorl-bootstrap")["containers"][0]
    assert parsed(container["args"])["parameters"] == [f"dataset={router['dataset']}"]
    container = production.pod_spec("CronJob/mtorl-materialize")["containers"][0]
    context, mounts = parsed(container["args"]), mounts_of(container)
    assert context["dataset"] == router["dataset"] and mounts["/etc/mtorl/dataset"]["name"] == "dataset"
    assert mounts[f"{context['feature_repo']}/feature_store.yaml"]["name"] == "feature-store"
    assert mounts["/mnt/mtorl"]["readOnly"] and context["own_decisions"] == "$(MTORL_LAKE)"
    container = production.pod_spec("CronJob/mtorl-monitor")["containers"][0]
    context, mounts = parsed(container["args"]), mounts_of(container)
    assert context["lake"] == "$(MTORL_LAKE)"
    assert context["job"], "findings raise alerts; the job fails only if the check does"
    assert context["dataset"] == router["dataset"] and mounts["/etc/mtorl/dataset"]["name"] == "dataset"
    assert str(context["registry"]) == "/mnt/mtorl/registry" and not mounts["/mnt/mtorl"].get("readOnly")
    exporter = production.pod_spec("Deployment/mtorl-monitor-exporter")["containers"][0]
    written, read = str(context["state"]), parsed([*exporter["command"][1:], *exporter["args"]])["state"]
    assert written == str(read) and mounts_of(exporter)["/mnt/mtorl"]["readOnly"]


def test_the_lake_that_routers_write_is_compacted_hourly(production: Objects) -> None:
    job = production.named("CronJob", "mtorl-compact")["spec"]
    minute, *rest = job["schedule"].split()
    assert rest == ["*"] * 4 and 60 * int(minute) > CLOSED_AFTER.total_seconds(), "the hour must be closed by then"
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 3600
    container = production.pod_spec("CronJob/mtorl-compact")["containers"][0]
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert str(parsed(container["args"])["lake"]) == "$(MTORL_LAKE)"
    assert not mounts_of(container)["/mnt/mtorl"].get("readOnly"), "the default lake is on this volume"

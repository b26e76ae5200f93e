"""Tests that the Katib experiment is valid and has the search space of a local search."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from typer.testing import CliRunner

from cli.main import app
from mtorl.fitting.search import METRIC, Trials, distributions
from mtorl.fitting.search_space import defaults
from mtorl.network.training import TrainConfig
from mtorl.runtime.errors import InputError
from pipelines.cluster.katib import write
from tests.manifests.conftest import assert_restricted
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder
from tests.repository import ROOT

KEPT = ROOT / "manifests" / "katib" / "experiment.yaml"
WRITTEN = yaml.safe_load(KEPT.read_text())

# Katib's default filter for metrics (pkg/metricscollector of Katib 0.19).
FILTER = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)")


def trial_of(values: dict[str, Any]) -> dict[str, Any]:
    template = WRITTEN["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    for parameter in template["trialParameters"]:
        place = f"${{trialParameters.{parameter['name']}}}"
        assert place in text, f"{parameter['name']} is not used"
        text = text.replace(place, str(values[parameter["reference"]]))
    assert "${" not in text
    return dict(json.loads(text))


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_manifest_is_what_the_command_writes(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["katib", "--out", str(tmp_path / "experiment.yaml")])
    assert answer.exit_code == 0, answer.output
    assert KEPT.read_text() == (tmp_path / "experiment.yaml").read_text(), f"{KEPT} is stale: mtorl katib"


def test_katib_and_the_local_search_have_the_same_space() -> None:
    def of(parameter: dict[str, Any]) -> BaseDistribution:
        space, kind = parameter["feasibleSpace"], parameter["parameterType"]
        if kind == "discrete":
            return CategoricalDistribution([int(choice) for choice in space["list"]])
        log = {"logUniform": True, "uniform": False}[space["distribution"]]
        if kind == "int":
            return IntDistribution(int(space["min"]), int(space["max"]), log=log)
        return FloatDistribution(float(space["min"]), float(space["max"]), log=log)

    found = {parameter["name"]: of(parameter) for parameter in WRITTEN["spec"]["parameters"]}
    assert found == distributions()


def test_the_manifest_is_a_valid_katib_experiment() -> None:
    assert (WRITTEN["apiVersion"], WRITTEN["kind"]) == ("kubeflow.org/v1beta1", "Experiment")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", WRITTEN["metadata"]["name"])
    assert len(WRITTEN["metadata"]["name"]) <= 40
    spec, template = WRITTEN["spec"], WRITTEN["spec"]["trialTemplate"]
    assert spec["parallelTrialCount"] <= spec["maxTrialCount"] >= spec["maxFailedTrialCount"]
    names = [parameter["name"] for parameter in spec["parameters"]]
    assert [parameter["reference"] for parameter in template["trialParameters"]] == names == list(defaults())
    assert "metadata" not in template["trialSpec"], "Katib sets the Job's metadata"
    assert template["primaryContainerName"] == container_of(template["trialSpec"])["name"]
    assert spec["objective"]["objectiveMetricName"] == METRIC


def test_a_trial_job_is_admitted_to_a_restricted_namespace() -> None:
    job = trial_of(defaults())
    kubernetes_validate.validate({**job, "metadata": {"name": "trial"}}, "1.34", strict=True)
    pod, container = job["spec"]["template"]["spec"], container_of(job)
    assert pod["restartPolicy"] == "Never" and pod["automountServiceAccountToken"] is False
    assert_restricted(pod)
    assert set(container["resources"]) == {"requests", "limits"}
    (data,) = [mount for mount in container["volumeMounts"] if mount["name"] == "data"]
    assert data["readOnly"] and container["args"][1].startswith(data["mountPath"] + "/")
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["mtorl-data"]


def test_the_network_policy_lets_katib_reach_its_pods() -> None:
    (policy,) = yaml.safe_load_all((KEPT.parent / "network.yaml").read_text())
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected == {"katib.kubeflow.org/experiment": WRITTEN["metadata"]["name"]}


def test_a_shell_splits_the_command_into_the_same_words() -> None:
    """Katib joins the command's words with spaces for `sh -c`, so no word may need quotes."""
    container = container_of(trial_of(defaults() | {"lr": "7.1e-05"}))
    assert container["command"] == ["mtorl"], "without a command, Katib would query the image registry"
    for word in (*container["command"], *container["args"]):
        assert re.fullmatch(r"[\w./=+-]+", word), word


@pytest.mark.integration
def test_a_trial_prints_what_the_collector_reads(tmp_path: Path) -> None:
    write_windows_folder(tmp_path / "windows", STEPS)
    values = defaults() | {"lr": "1e-3", "hidden": "32", "batch_size": "64"}
    container = container_of(trial_of(values))
    args = [str(tmp_path / "windows") if word.startswith("/mnt/") else word for word in container["args"]]
    args = ["--epochs=2" if word.startswith("--epochs") else word for word in args]
    answer = CliRunner().invoke(app, args)
    assert answer.exit_code == 0, answer.output
    found = []
    for line in answer.stdout.splitlines():
        # Without a time, Katib would give the same time to all lines.
        datetime.fromisoformat(line.split(" ")[0])
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z ", line)
        found += [float(value) for name, value, *_ in FILTER.findall(line) if name == METRIC]
    config = TrainConfig(epochs=2, seed=7, lr=1e-3, hidden=32, batch_size=64)
    assert len(found) == 2
    assert found[-1] == pytest.approx(Trials(str(tmp_path / "windows")).run(config), abs=1e-6)


def test_an_invalid_trial_is_reported_in_one_line(tmp_path: Path) -> None:
    for words, complaint in ((["--set", "width=3"], "unknown name 'width'"), ([], "no windows folder")):
        answer = CliRunner().invoke(app, ["trial", str(tmp_path), *words])
        assert answer.exit_code == 2 and complaint in answer.output and answer.output.count("\n") == 1


SEARCH = {"windows": "/mnt/mtorl/windows", "trials": 30, "parallel": 3, "epochs": 15, "seed": 7}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parallel": 9, "trials": 3}, "parallel must be at most trials"),
        ({"windows": "/tmp/windows"}, "must be on the data volume"),
        ({"windows": "/mnt/mtorl/my windows;"}, "a shell would interpret ' ;'"),
    ],
)
def test_search_settings_unfit_for_a_cluster_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / "experiment.yaml", **{**SEARCH, **change})

"""Tests of a team's overlay on top of a shipped overlay."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mtorl.experiment.metrics import check_outcomes
from mtorl.log.dataset import DatasetSpec
from tests.examples.walk import Terminal, script_of
from tests.manifests.conftest import MANIFESTS, Objects, containers, documents, experiment_of, rendered
from tests.repository import ROOT

EXAMPLE = MANIFESTS / "examples" / "team"


@pytest.fixture
def objects() -> Objects:
    return rendered("examples/team")


def test_a_teams_files_take_effect_and_fit(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pytest.importorskip("serving.router.ops.settings")
    spec = DatasetSpec.from_dict(yaml.safe_load(objects.config_map("mtorl-dataset-")["data"]["dataset.yaml"]))
    assert spec == DatasetSpec.load(EXAMPLE / "dataset.yaml") and spec.name == "shop"
    experiment = experiment_of(EXAMPLE / "experiment.yaml")
    assert experiment.default_channel in spec.channels
    check_outcomes(experiment.metrics.names, spec.outcome_kinds)
    (tmp_path / "router.yaml").write_text(objects.config_map("mtorl-router-")["data"]["router.yaml"])
    monkeypatch.setenv("MTORL_LAKE", objects.config_map("mtorl-lake-")["data"]["MTORL_LAKE"])
    assert set(settings.RouterSettings.load(tmp_path / "router.yaml").cost_cap) == set(spec.channels)
    pod = objects.pod_spec("CronJob/mtorl-bootstrap")["containers"][0]
    assert not any("simulate" in arg for arg in pod["args"]), "the team has a real log"


def test_the_installed_overlay_names_all_its_images(tmp_path: Path) -> None:
    """Run steps 5 and 6 of docs/cluster.md with a fake container engine."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    steps = script_of(page[page.index("\n## Install\n") : page.index("\n# 7, 8  ")] + "\n```\n").partition("# 5  ")[2]
    for entry in ROOT.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "engine").write_text("#!/bin/sh\n[ $1 != images ] || echo 1 GB\n")
    (tmp_path / "engine").chmod(0o755)
    terminal = Terminal(tmp_path, tmp_path / "bin")
    terminal.environment |= {"CONTAINER_ENGINE": str(tmp_path / "engine"), "LOAD": "true"}
    objects = documents(terminal.run(f"# 5  {steps}\nkubectl kustomize my-overlay"))
    images = {container["image"] for _, pod in objects.pods() for container in containers(pod)}
    assert {image.split(":")[0].rpartition("/")[2] for image in images} == {"router", "redis", "torchserve", "train"}
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+-[0-9a-f]{12}", image) for image in images), images


@pytest.mark.parametrize(
    ("router", "experiment"),
    [
        ("base/router/config/router.yaml", "examples/experiment.yaml"),
        ("examples/team/router.yaml", "examples/team/experiment.yaml"),
    ],
)
def test_the_smallest_arm_has_money_to_spend(router: str, experiment: str) -> None:
    warnings = pytest.importorskip("serving.ledger.overrun")
    cost_cap = yaml.safe_load((MANIFESTS / router).read_text())["cost_cap"]
    balances = [
        warnings.Balance(x.arm, x.campaign, x.channel, x.limit, 0.0, 0.0, 0.0, x.period)
        for x in experiment_of(MANIFESTS / experiment).replace(stage="1%").accounts()
    ]
    assert not warnings.budget_warnings(balances, 0.0, cost_cap)


def test_serving_versions_are_pushed_once_as_a_branch(tmp_path: Path) -> None:
    """Run the scripts of examples/gitops with a local folder as the Git repository."""

    def git(*words: str) -> str:
        said = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path / "team"), *words]
        return subprocess.run(said, check=True, capture_output=True, text=True).stdout

    def job(version: str, answer: int = 201) -> str:
        shutil.rmtree(tmp_path / "repository", ignore_errors=True)
        (tmp_path / "wget").write_text(
            f"#!/bin/sh\n[ {answer} -lt 300 ] || {{ echo HTTP/1.1 {answer} >&2; exit 1; }}\n"
        )
        (tmp_path / "wget").chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "WORK": str(tmp_path)}
        environment |= {"REPOSITORY": f"file://{tmp_path}/team", "FILE": "models.yaml", "BASE": "main"}
        environment |= {"PULLS": "https://git.example.com/pulls", "TOKEN": "t"}
        for script in ("clone.sh", "propose.sh"):
            words = ["sh", str(MANIFESTS / "examples" / "gitops" / script)]
            said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
            (tmp_path / "repository" / "models.yaml").write_text(f"incumbent: {version}\n")
        return said

    (tmp_path / "team").mkdir()
    git("init", "--quiet", "--initial-branch=main")
    (tmp_path / "team" / "models.yaml").write_text("incumbent: incumbent/first\n")
    git("add", "--all")
    git("commit", "--quiet", "--message=first")
    assert "is what serves" in job("incumbent/first")
    with pytest.raises(subprocess.CalledProcessError):
        job("a/1", answer=503)
    assert not git("branch", "--list", "mtorl-versions")
    for version, said in (("a/1", "pushed"), ("a/1", "proposes it already"), ("a/2", "pushed")):
        if version == "a/2":
            with pytest.raises(subprocess.CalledProcessError):
                job(version, answer=503)
            assert git("show", "mtorl-versions:models.yaml") == "incumbent: a/1\n"  # the open request stays
        assert said in job(version, answer=201 if version == "a/1" else 422)
        assert git("show", "mtorl-versions:models.yaml") == f"incumbent: {version}\n"
        assert git("rev-list", "--count", "main..mtorl-versions").strip() == "1"

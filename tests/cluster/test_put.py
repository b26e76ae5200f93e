"""`mtorl put` on a cluster: Pod Security "restricted", a quota, and the NetworkPolicies of production.

It needs a node that runs things, and the images in $IMAGES. A minute on two CPUs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from mtorl.log.dataset import DatasetSpec
from tests.cluster.conftest import Installation
from tests.cluster.kubectl import Object, kubectl, listed
from tests.manifests.conftest import documents, title

pytestmark = [pytest.mark.cluster, pytest.mark.node]

NEEDED = ("CronJob/mtorl-bootstrap", "ServiceAccount/mtorl-jobs")


def test_a_description_comes_onto_the_volume(
    installation: Installation, images: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "further", {"images": images})
    objects = documents(kubectl("kustomize", installation.target("overlays/production")))
    wanted = [one for one in objects if title(one) in NEEDED or one["kind"] == "NetworkPolicy"]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))
    path = tmp_path / "my-log.yaml"

    def put(name: str, *words: str) -> tuple[int, str]:
        DatasetSpec.load("simulator").replace(name=name).save(path)
        done = CliRunner().invoke(app, ["put", str(path), "dataset.yaml", "-n", installation.namespace, *words])
        assert [
            pod for pod in listed(installation.namespace, "pod") if not pod["metadata"].get("deletionTimestamp")
        ] == []
        return done.exit_code, done.output.partition(",")[0].strip()

    assert put("shop") == (0, "/mnt/mtorl/dataset.yaml: written")
    assert put("shop") == (0, "/mnt/mtorl/dataset.yaml: was there"), "another pod finds it on the volume"
    assert put("mall")[0] == 4
    assert put("mall", "--replace") == (0, "/mnt/mtorl/dataset.yaml: written")

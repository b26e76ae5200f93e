import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.publish.component import publish
from mtorl.artifact.lineage import GateReport, Lineage
from serving import inference_services
from serving.versions.catalogue import versions
from tests.serving.small_versions import version

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MTORL_MODEL_REGISTRY", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path / "registry"


@pytest.fixture
def run(
    registry: Path,
    challenger: Artifact,
    incumbent: Artifact,
    model_store: Artifact,
    evaluation: Artifact,
    judged: Artifact,
) -> Callable[..., Path]:
    named: dict[str, Any] = {"challenger": challenger, "incumbent": incumbent}
    named |= {"model_store": model_store, "evaluation": evaluation, "registry": str(registry), "gate": judged}
    named |= {"content": "raw", "decisions": "", "users": 0, "epochs": 1, "seed": 7, "budget_share": 0.6}
    named |= {"settings": "", "lake": "", "experiment": "", "keep": 1}
    named |= {"pipeline": "mtorl-train", "run_name": "night", "run_id": "17"}
    return lambda **changes: Path(publish.python_func(**named | changes))


def test_a_version_has_its_lineage(
    run: Callable[..., Path], registry: Path, challenger: Artifact, incumbent: Artifact, judged: Artifact
) -> None:
    place = run(decisions="kept")
    assert place.parent == registry / "challenger"
    assert (place / "artifact" / "model.json").read_bytes() == (Path(challenger.path) / "model.json").read_bytes()
    found = Lineage.read(place)
    assert run(run_id="18", decisions="kept") == place and Lineage.read(place) == found, "a version must never change"
    assert found.gate is not None
    assert found.digest == challenger.metadata["digest"]
    assert found.gate == GateReport.model_validate_json(Path(judged.path).read_text())
    (parent,) = found.parents
    assert (parent.relation, parent.digest) == ("compared with", incumbent.metadata["digest"])
    assert (found.data.source, found.data.collected, found.run.id) == ("raw", "kept", "17")
    assert found.settings == {"users": 0, "epochs": 1, "seed": 7, "budget_share": 0.6}
    auc = found.metrics["reward_auc"]
    assert auc.low is not None and auc.high is not None and auc.low <= auc.value <= auc.high


def test_a_version_that_needs_an_experiment_is_published_with_commands(
    run: Callable[..., Path], judged: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_ = GateReport.model_validate_json(Path(judged.path).read_text()).replace(decision="experiment", margin=0.02)
    report = Artifact(uri=str(tmp_path / "report.json"))
    Path(report.path).write_text(open_.model_dump_json())
    place = run(gate=report)
    (patch,) = re.findall(r"-p '(.*)'$", capsys.readouterr().out, re.M)
    of_predictor = json.loads(patch)["spec"]["predictor"]["annotations"]
    assert of_predictor == {inference_services.VERSION: f"challenger/{place.name}"}


def test_old_versions_are_deleted_unless_they_serve(
    run: Callable[..., Path], registry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served, old = version(registry, 1), version(registry, 2)
    service = {
        "metadata": {"name": "mtorl-challenger"},
        "spec": {"predictor": {"annotations": {"mtorl-kubeflow/model": served}}},
    }
    monkeypatch.setattr(inference_services, "services_of_pod", lambda: [service])
    place = run()
    assert {found.ref for found in versions(registry)} == {served, f"challenger/{place.name}"}
    assert f"removed {old}" in capsys.readouterr().out


def test_nothing_is_deleted_if_the_serving_version_is_unknown(
    run: Callable[..., Path], registry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = version(registry, 1)

    def refuse() -> None:
        raise PermissionError("forbidden: let its service account list them")

    monkeypatch.setattr(inference_services, "services_of_pod", refuse)
    run()
    assert old in {found.ref for found in versions(registry)}
    assert "forbidden: let its" in capsys.readouterr().out
    monkeypatch.undo()
    unreadable = registry / "experiment.yaml"
    unreadable.write_text("name: []")
    run(experiment=str(unreadable))
    run(keep=0)
    assert old in {found.ref for found in versions(registry)}

"""A challenger to its place in the registry, with its lineage; old versions go."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.publish.component import publish
from mtorl.artifact.lineage import Lineage
from mtorl.evaluation.gate import gate
from serving import inference_services
from serving.versions.catalogue import versions
from tests.serving.small_versions import version

pytestmark = pytest.mark.integration


class Publish:
    """The component, with what other steps have left."""

    def __init__(self, registry: Path, artifacts: dict[str, Artifact]) -> None:
        self.registry = registry
        self.arguments: dict[str, Any] = {
            **artifacts,
            "registry": str(registry),
            "min_lift": 0.01,
            "content": "raw",
            "decisions": "",
            "users": 0,
            "epochs": 1,
            "seed": 7,
            "budget_share": 0.6,
            "settings": "",
            "lake": "",
            "experiment": "",
            "keep": 1,
            "pipeline": "mtorl-train",
            "run_name": "night",
            "run_id": "17",
        }
        assert set(self.arguments) == set(inspect.signature(publish.python_func).parameters)

    def __call__(self, **changes: Any) -> Path:
        return Path(publish.python_func(**self.arguments | changes))


@pytest.fixture
def run(
    tmp_path: Path,
    challenger: Artifact,
    incumbent: Artifact,
    model_store: Artifact,
    evaluation: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> Publish:
    monkeypatch.delenv("MTORL_MODEL_REGISTRY", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    named = {"challenger": challenger, "incumbent": incumbent, "model_store": model_store, "evaluation": evaluation}
    return Publish(tmp_path / "registry", named)


def test_it_says_where_it_comes_from(
    run: Publish, challenger: Artifact, incumbent: Artifact, evaluation: Artifact
) -> None:
    place = run(decisions="kept")
    assert place.parent == run.registry / "challenger"
    assert (place / "artifact" / "model.json").read_bytes() == (Path(challenger.path) / "model.json").read_bytes()
    found = Lineage.read(place)
    assert run(run_id="18", decisions="kept") == place and Lineage.read(place) == found, "a version is never changed"
    assert found.gate is not None
    assert found.digest == challenger.metadata["digest"]
    assert (found.gate.decision, found.gate.reason) == gate(
        json.loads(Path(evaluation.path).read_text())["value"], 0.01
    )
    (parent,) = found.parents
    (of_incumbent,) = [
        line for line in (Path(incumbent.path) / "model.json").read_text().splitlines() if "digest" in line
    ]
    assert parent.relation == "compared with" and parent.digest in of_incumbent
    assert (found.data.source, found.data.collected, found.run.id) == ("raw", "kept", "17")
    assert found.settings == {"users": 0, "epochs": 1, "seed": 7, "budget_share": 0.6, "min_lift": 0.01}
    auc = found.metrics["reward_auc"]
    assert auc.low is not None and auc.high is not None and auc.low <= auc.value <= auc.high


def test_old_versions_go_and_what_serves_stays(
    run: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served, old = version(run.registry, 1), version(run.registry, 2)
    service = {
        "metadata": {"name": "mtorl-challenger"},
        "spec": {"predictor": {"annotations": {"mtorl-kubeflow/model": served}}},
    }
    monkeypatch.setattr(inference_services, "services_of_pod", lambda: [service])
    place = run()
    assert {found.ref for found in versions(run.registry)} == {served, f"challenger/{place.name}"}
    assert f"removed {old}" in capsys.readouterr().out


def test_nothing_goes_where_nobody_says_what_serves(
    run: Publish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = version(run.registry, 1)

    def refuse() -> None:
        raise PermissionError("forbidden: let its service account list them")

    monkeypatch.setattr(inference_services, "services_of_pod", refuse)
    run()
    assert old in {found.ref for found in versions(run.registry)}
    assert "no version is removed, since it is not known what serves: forbidden" in capsys.readouterr().out
    monkeypatch.undo()
    unreadable = run.registry / "experiment.yaml"
    unreadable.write_text("name: []")
    run(experiment=str(unreadable))
    run(keep=0)
    assert old in {found.ref for found in versions(run.registry)}


def test_a_model_of_simulated_data_does_not_go_to_a_registry_of_real_ones(run: Publish) -> None:
    other = run.registry / "incumbent" / "first" / "artifact"
    other.mkdir(parents=True)
    (other / "model.json").write_text('{"simulated": false}')
    with pytest.raises(SystemExit, match=r"^mtorl: .* holds models of a real log, and this model is of simulated data"):
        run()
    assert not (run.registry / "challenger").exists()

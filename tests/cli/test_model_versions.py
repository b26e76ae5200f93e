import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import versions as model_versions
from cli.main import app
from mtorl.runtime.errors import InputError
from serving.inference_services import MARK, VERSION
from serving.messages import NO_VERSION_OF_ARM, SERVING_UNKNOWN
from serving.model_servers import Mark
from serving.versions.catalogue import versions
from serving.versions.models_file import write_versions
from tests.messages import raises
from tests.monitoring.written_log import Log
from tests.repository import ROOT
from tests.serving.small_versions import digest, lineage, version

NEW, NEWER = digest(1)[:12], digest(2)[:12]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a registry with three model versions; version 1 is the serving incumbent."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    root = tmp_path / "registry"
    version(root, 0, "incumbent", "first", lineage(0, gate=None))
    version(root, 1, known=lineage(1, parent=0))
    version(root, 2, known=lineage(2, parent=1))
    log = Log()
    log.decide("u1", "incumbent", model_digest=digest(1))
    log.write(tmp_path / "lake")
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["model", *(str(argument) for argument in arguments)])


def as_json(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_list_shows_what_serves_and_why_it_was_published(registry: Path) -> None:
    found = as_json("list", "--registry", registry)
    rows = {row["version"]: row for row in found["versions"]}
    assert list(rows) == [f"challenger/{NEWER}", f"challenger/{NEW}", "incumbent/first"]
    assert [row["serves"] for row in rows.values()] == [False, True, False]
    gate = rows[f"challenger/{NEW}"]["lineage"]["gate"]
    assert (gate["decision"], gate["lift"]) == ("promote", {"value": 0.1, "low": 0.05, "high": 0.15})
    assert rows["incumbent/first"]["lineage"]["gate"] is None
    (source,) = found["sources"]
    assert str(registry.parent / "lake") in source
    said = run("list", "--registry", registry).stdout
    (line,) = [line for line in said.splitlines() if NEW in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][1] == "yes" and "0.100 [0.050, 0.150]" in line
    assert f"small {'da7a'}" in line, "shows its training data"
    assert "none" in next(line for line in said.splitlines() if "incumbent/first" in line)


def test_a_version_is_shown_with_its_parents(registry: Path) -> None:
    found = as_json("show", NEWER, "--registry", registry)
    (parent,) = found["parents"]
    assert (parent["version"], parent["relation"]) == (f"challenger/{NEW}", "compared with")
    assert parent["parents"][0]["version"] == "incumbent/first"
    said = run("show", NEWER, "--registry", registry).stdout
    for name, known_by in ((f"challenger/{NEW}", NEW), ("incumbent/first", digest(0)[:12])):
        assert f"compared with {name} ({known_by})" in said
    assert "promote: better" in said and "0.7000 [0.6800, 0.7200]" in said


def test_needed_versions_stay_and_without_a_log_all_stay(registry: Path) -> None:
    for name, why in (
        (NEW, "decides as incumbent of test"),
        ("incumbent/first", f"challenger/{NEW} serves and was compared with it"),
    ):
        done = run("rm", name, "--registry", registry)
        assert done.exit_code == 4 and why in done.stderr
    assert run("rm", NEWER, "--registry", registry).exit_code == 0
    shutil.rmtree(registry.parent / "lake")
    done = run("rm", NEW, "--registry", registry)
    assert done.exit_code == 4 and SERVING_UNKNOWN(registry=registry) in done.stderr
    assert [found.ref for found in versions(registry)] == [f"challenger/{NEW}", "incumbent/first"]


def test_a_cluster_determines_the_serving_versions(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = {
        "metadata": {"name": "mtorl-challenger"},
        "spec": {"predictor": {"annotations": {"mtorl-kubeflow/model": f"challenger/{NEWER}"}}},
    }
    objects: dict[str, list[Any]] = {"inferenceservices": [service], "configmaps": []}
    monkeypatch.setattr(model_versions, "objects", lambda kind, namespace: objects[kind])
    done = run("rm", NEWER, "--registry", registry, "-n", "ads")
    assert done.exit_code == 4 and "mtorl-challenger serves it" in done.stderr
    assert "the cluster" in as_json("list", "--registry", registry, "-n", "ads")["sources"]


@pytest.mark.parametrize(
    ("serves", "phase", "written"),
    [
        ("challenger/won", "promoted", "challenger/won"),
        ("incumbent/first", "promoted", "challenger/won"),  # an older file was applied later
        ("challenger/won", "rolled back", "incumbent/first"),
        ("third/one", "promoted", "third/one"),  # rolled out manually
    ],
)
def test_models_yaml_lists_the_versions_to_serve(
    serves: str, phase: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Mark(experiment="spring", promotion="1", before="incumbent/first", after="challenger/won")
    services = [
        {
            "metadata": {"name": f"mtorl-{arm}", "annotations": {MARK: mark.model_dump_json()} if marked else {}},
            "spec": {"predictor": {"annotations": {VERSION: version}}},
        }
        for arm, version, marked in (("incumbent", serves, True), ("challenger", "challenger/next", False))
    ]
    found = {
        "inferenceservices": services,
        "experiments": [{"metadata": {"name": "spring"}, "status": {"phase": phase}}],
    }
    monkeypatch.setattr(model_versions, "objects", lambda kind, namespace: found[kind])
    text = (ROOT / "manifests" / "overlays" / "production" / "models.yaml").read_text()
    (tmp_path / "models.yaml").write_text(text)
    assert run("versions", "--write", tmp_path / "models.yaml").exit_code == 0
    expected = text.replace("incumbent: incumbent/first", f"incumbent: {written}")
    assert (tmp_path / "models.yaml").read_text() == expected.replace("challenger/first", "challenger/next")
    with raises(InputError, NO_VERSION_OF_ARM, arm="other"):
        write_versions(tmp_path / "models.yaml", {"other": "other/first"})
    services.clear()
    assert run("versions").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list", "--registry", "nowhere"), "there is no registry"),
        (("show", "typo"), "no version 'typo'"),
        (("rm", "typo"), "no version 'typo'"),
    ],
)
def test_unusable_arguments_give_one_line(registry: Path, arguments: tuple[str, ...], says: str) -> None:
    where = () if "--registry" in arguments else ("--registry", registry)
    done = run(*arguments, *where)
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1

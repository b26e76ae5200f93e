import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository import ROOT

Images = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ["router", "redis", "torchserve", "train", "spark"]
TOOLS = ["bash", "sh", "cat", "rm", "mktemp", "basename", "dirname", "find", "sort", "head", "cut", "tr", "sed", "grep"]
TOOLS += ["xargs", "sha256sum", "mkdir"]

# A fake container engine that records its calls, and knows the size of built images.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case $1 in
  build) while [ "$1" != -t ]; do shift; done; echo "$2" >>"$CALLS.built" ;;
  images) while [ $# -gt 1 ]; do shift; done; grep -qxF "$1" "$CALLS.built" && echo "1.2 GB" ;;
  push) [ "$2" != --digestfile ] || printf sha256:%064d 7 >"$3" ;;
  run) echo '{"installed": []}' ;;
esac
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    for name in ("scripts/images.sh", "manifests/images", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, made / name)
    for line in (made / ".dockerignore").read_text().splitlines():
        if line.startswith("!") and not (made / line[1:]).exists():
            (made / line[1:]).mkdir()
            (made / line[1:] / "module.py").write_text("value = 1\n")
    return made


@pytest.fixture
def images(repository: Path, tmp_path: Path) -> Images:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("podman", "tester", "mine", "cosign"):
        (tools / tool).write_text(STAND_IN)
        (tools / tool).chmod(0o755)
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "calls.built").touch()

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tools / "bash", repository / "scripts" / "images.sh", *arguments],
            env={"PATH": str(tools), "CALLS": str(tmp_path / "calls"), **environment},
            capture_output=True,
            text=True,
        )

    return run


def calls(tmp_path: Path, word: str) -> list[str]:
    return [line for line in (tmp_path / "calls").read_text().splitlines() if f" {word} " in f"{line} "]


def tags(images: Images, **environment: str) -> dict[str, str]:
    listed = re.findall(r"^ghcr\.io/mtorl-kubeflow/(\w+):(\S+)", images("list", **environment).stdout, re.M)
    return dict(listed)


def component(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)
    assert made["kind"] == "Component"
    images: list[dict[str, Any]] = made["images"]
    return images


def test_a_tag_is_the_version_and_a_hash_of_the_content(images: Images, repository: Path) -> None:
    first = tags(images)
    assert list(first) == NAMES
    for name, tag in first.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+(-python3\.11)?-[0-9a-f]{12}", tag), tag
        assert ("python" in tag) == (name in ("train", "spark"))
    (repository / "serving" / "module.py").write_text("value = 2\n")
    second = tags(images)
    assert {name for name in NAMES if second[name] != first[name]} == set(NAMES) - {"redis"}
    (repository / "manifests" / "images" / "redis" / "redis-ready").write_text("exit 0\n")
    third = tags(images)
    assert {name for name in NAMES if third[name] != second[name]} == {"redis"}
    (repository / "serving" / "__pycache__").mkdir()
    (repository / "serving" / "__pycache__" / "module.pyc").touch()
    (repository / "docs.md").touch()
    assert tags(images) == third, "files outside images must not change a tag"


def test_an_existing_image_is_not_rebuilt(images: Images, repository: Path, tmp_path: Path) -> None:
    assert "not built" in images("list", "router").stdout
    made = component(images("build", "router", "redis", BUILD_OPTIONS="--network=host --pull=never"))
    assert [image["name"] for image in made] == [f"ghcr.io/mtorl-kubeflow/{name}" for name in ("router", "redis")]
    assert made[0]["newTag"] == tags(images)["router"]
    assert "1.2 GB" in images("list", "router").stdout
    (first, _) = calls(tmp_path, "build")
    assert "-f manifests/images/router/Dockerfile" in first and first.endswith("--network=host --pull=never .")
    assert component(images("build", "router", "redis")) == made and len(calls(tmp_path, "build")) == 2
    (repository / "mtorl" / "module.py").unlink()
    assert component(images("build", "router", "redis"))[0] != made[0] and len(calls(tmp_path, "build")) == 3


def test_push_prints_digests_signs_them_and_lists_the_content(images: Images, tmp_path: Path) -> None:
    told = {"SBOM": str(tmp_path / "sbom"), "SIGN": "--key cosign.key"}
    (made,) = component(images("push", "registry.example.org/mtorl", "train", **told))
    signed = f"registry.example.org/mtorl/train@sha256:{7:064d}"
    assert calls(tmp_path, "sign") == [f"cosign sign --yes --key cosign.key {signed}"]
    assert {file.name for file in (tmp_path / "sbom").iterdir()} == {"train.pip.json", "train.dpkg.txt"}
    assert made == {
        "name": "ghcr.io/mtorl-kubeflow/train",
        "newName": "registry.example.org/mtorl/train",
        "digest": f"sha256:{7:064d}",
    }
    assert calls(tmp_path, "push")[0].endswith(f" registry.example.org/mtorl/train:{tags(images)['train']}")
    assert len(calls(tmp_path, "build")) == 1


def test_load_calls_the_given_command(images: Images, tmp_path: Path) -> None:
    (made,) = component(images("load", "router", LOAD="mine load image"))
    image = f"ghcr.io/mtorl-kubeflow/router:{made['newTag']}"
    assert [line for line in calls(tmp_path, image) if line.startswith("mine")] == [f"mine load image {image}"]
    refused = images("load", "router")
    assert refused.returncode == 1 and "LOAD is not set" in refused.stderr
    for arguments, said in ((["push"], "push REGISTRY"), (["build", "ruoter"], "no such image"), ([], "Usage:")):
        assert (refused := images(*arguments)).returncode in (1, 2) and said in refused.stderr and not refused.stdout

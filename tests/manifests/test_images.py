"""Tests of the Dockerfiles and of the images' entry points, without building images."""

import importlib.util
import os
import re
import subprocess
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT

EXTRAS = {"router": ["router", "operator"], "torchserve": ["handlers"], "train": ["all"], "spark": ["spark"]}
DOCKERFILES = sorted(MANIFESTS.glob("images/*/Dockerfile"))


def test_each_image_has_a_dockerfile_its_extras_and_a_context() -> None:
    release = (MANIFESTS / "components" / "release" / "kustomization.yaml").read_text()
    named = set(re.findall(r"name: ghcr\.io/mtorl-kubeflow/(\w+)", release))
    assert {path.parent.name for path in DOCKERFILES} == named == {*EXTRAS, "redis"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, extras in EXTRAS.items():
        lock = (MANIFESTS / "images" / name / "requirements.txt").read_text()
        locked = {canonicalize_name(one.name): str(one.specifier)[2:] for one in locked_in(lock)}
        assert len(locked) <= lock.count("--hash=sha256:")
        needed = [Requirement(line) for line in project["dependencies"]]
        more = [Requirement(f"{project['name']}[{','.join(extras)}]")]
        while more:  # an extra may include others
            lines = [line for extra in more.pop().extras for line in project["optional-dependencies"][extra]]
            needed += [one for one in map(Requirement, lines) if one.name != project["name"]]
            more += [one for one in map(Requirement, lines) if one.name == project["name"]]
        for one in needed:
            found = locked.get(canonicalize_name(one.name), "none")
            assert one.name == "torch" or one.specifier.contains(found), f"{name}: {one}: scripts/images.sh lock"
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {"mtorl", "features", "components", "pipelines", "serving", "monitoring", "cli"}
    assert kept == packages | {"pyproject.toml", "README.md", "LICENSE", "manifests/images"}, "only what pip needs"


def locked_in(lock: str) -> list[Requirement]:
    return [Requirement(line) for line in re.findall(r"^(\S.*==\S+) \\$", lock, re.M)]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_names_the_extras_that_its_packages_require(name: str) -> None:
    """If a lock file lacks a required extra, such as `uvicorn[standard]`, then pip with hashes fails."""
    lock = (MANIFESTS / "images" / name / "requirements.txt").read_text()
    locked = {canonicalize_name(one.name): one.extras for one in locked_in(lock)}
    for package, extras in locked.items():
        try:
            needed = [Requirement(line) for line in metadata.requires(package) or ()]
        except metadata.PackageNotFoundError:  # another Python's or system's
            continue
        for one in needed:
            applies = any(one.marker is None or one.marker.evaluate({"extra": extra}) for extra in {"", *extras})
            if applies and canonicalize_name(one.name) != package:
                assert one.extras <= locked.get(canonicalize_name(one.name), one.extras), f"{package}: {one}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_dockerfile(path: Path) -> None:
    text = path.read_text()
    bases = set(re.findall(r"^FROM (\S+)", text, re.M)) - set(re.findall(r"^FROM \S+ AS (\S+)", text, re.M))
    assert bases <= {"python:3.11-slim", "debian:trixie-slim"}
    assert re.findall(r"^USER (.+)", text, re.M)[-1] == "10001:10001", "runAsNonRoot needs a numeric user"
    for label in ("title", "description", "source", "licenses"):
        assert f"org.opencontainers.image.{label}=" in text
    if "pip install" in text:
        assert "PIP_NO_CACHE_DIR=1" in text and "--require-hashes -r /src/requirements.txt" in text
        needs, project, _ = re.split(r"^FROM ", text, flags=re.M)[1:]
        assert "COPY . " not in needs, "a change of code would reinstall all dependencies"
        assert "--no-deps" in project
    last = text[text.rindex("FROM ") :]
    assert "COPY . " not in last, "the source tree stays in the build stage"
    assert "ORT_DISABLE_TELEMETRY=1" in last or "python" not in last, "onnxruntime would send telemetry"
    for line in re.findall(r"^COPY (?!--from|\.)(.*)", text, re.M):
        for source in [word for word in line.split()[:-1] if not word.startswith("--")]:
            assert (ROOT / source).exists(), source


def test_java_replaces_the_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The start script must replace itself by Java, or fail if the registry lacks the model."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    monkeypatch.chdir(tmp_path)  # the script changes the folder
    for name, value in (("NAME", "incumbent"), ("VERSION", "challenger/first")):
        monkeypatch.setenv(f"MODEL_{name}", value)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    store = tmp_path / "challenger" / "first" / "model-store"
    store.mkdir(parents=True)
    spec = importlib.util.spec_from_file_location("start", MANIFESTS / "images" / "torchserve" / "start.py")
    assert spec and spec.loader
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    monkeypatch.setattr(start, "REGISTRY", tmp_path)
    with pytest.raises(SystemExit, match=r"exactly one \.mar"):
        start.main()
    zipfile.ZipFile(store / "challenger.mar", "w").close()
    left = tmp_path / "tmp" / "torchserve" / "tmp" / ".model_server.pid"
    left.parent.mkdir(parents=True)
    left.touch()
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: called.append([path, *command]))
    start.main()
    (command,) = called
    assert command[0] == command[1] and command[0].endswith("/bin/java")
    assert command[command.index("--models") + 1] == "incumbent=challenger.mar", "served under the arm's name"
    assert command[command.index("-f") + 1] == str(start.CONFIG)
    assert f"-Djava.io.tmpdir={tmp_path}/tmp/torchserve/tmp" in command
    assert not left.exists()


def spark_runs(folder: Path, *arguments: str, **environment: str) -> list[str]:
    (folder / "tini").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "tini").chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "SPARK_HOME": "/spark"}
    command = [str(MANIFESTS / "images" / "spark" / "entrypoint"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_spark_driver_is_spark_submit_in_client_mode(tmp_path: Path) -> None:
    given = ("--properties-file", "p", "local:///app.py", "a b")
    words = spark_runs(tmp_path, "driver", *given, SPARK_DRIVER_BIND_ADDRESS="10.0.0.1")
    assert words[:5] == ["-s", "--", "/spark/bin/spark-submit", "--deploy-mode", "client"]
    assert "spark.driver.bindAddress=10.0.0.1" in words
    assert words[-4:] == list(given)


def test_spark_executor_gets_its_identity(tmp_path: Path) -> None:
    given = ("DRIVER_URL", "EXECUTOR_ID", "EXECUTOR_CORES", "APPLICATION_ID", "EXECUTOR_POD_IP", "RESOURCE_PROFILE_ID")
    environment = {f"SPARK_{name}": f"the {name}" for name in (*given, "EXECUTOR_POD_NAME")}
    options = {"SPARK_EXECUTOR_MEMORY": "8g", "SPARK_JAVA_OPT_0": "-Da=1 2", "SPARK_JAVA_OPT_1": "-Db"}
    words = spark_runs(tmp_path, "executor", **options, **environment)
    assert words[:7] == ["-s", "--", "java", "-Da=1 2", "-Db", "-Xms8g", "-Xmx8g"]
    assert words[words.index("-cp") + 1] == "/spark/jars/*"
    said = dict(zip(words[10::2], words[11::2], strict=True))
    assert set(said.values()) == set(environment.values()) and said["--hostname"] == "the EXECUTOR_POD_IP"

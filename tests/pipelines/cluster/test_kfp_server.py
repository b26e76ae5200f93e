"""Tests that `mtorl pipeline upload` creates one version per content."""

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from kfp.cli.cli import cli as kfp_command
from typer.testing import CliRunner

from cli.main import app
from tests.pipelines.cluster.fake_kfp import FakeKfp, fake_kfp
from tests.repository import ROOT

TRAIN = ROOT / "manifests" / "pipelines" / "compiled" / "mtorl-train.yaml"


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with fake_kfp() as server:
        yield server


def invoke(kfp: FakeKfp, *words: str, namespace: str = "mtorl") -> tuple[int, str]:
    options = ["--endpoint", kfp.endpoint, "--existing-token", "token", "--namespace", namespace]
    answer = CliRunner().invoke(app, ["pipeline", *options, *words])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.output


def test_the_same_content_is_one_version_even_after_an_interrupted_upload(kfp: FakeKfp, tmp_path: Path) -> None:
    kfp.refuse_after = 1
    assert invoke(kfp, "upload", str(TRAIN))[0] == 1
    kfp.refuse_after = None
    code, first = invoke(kfp, "upload", str(TRAIN))
    assert code == 0 and re.fullmatch(r"mtorl-train-[0-9a-f]{12}: uploaded\n", first)
    assert kfp.changes == ["POST pipelines", "POST pipelines"], "one request creates the pipeline, one its version"
    assert invoke(kfp, "upload", str(TRAIN)) == (0, first.replace("uploaded", "already there"))
    (tmp_path / "changed.yaml").write_text(TRAIN.read_text() + "# another content\n")
    code, other = invoke(kfp, "upload", str(tmp_path / "changed.yaml"))
    assert code == 0 and other != first and other.endswith("uploaded\n") and len(kfp.changes) == 3


def test_a_file_that_is_no_pipeline_is_refused_before_any_request(kfp: FakeKfp, tmp_path: Path) -> None:
    (tmp_path / "rubbish.yaml").write_text("a: b")
    for name in ("rubbish.yaml", "absent.yaml"):
        code, said = invoke(kfp, "upload", str(TRAIN), str(tmp_path / name))
        assert code == 2 and f"{name}: not a" in said and not kfp.changes


MULTI_USER, LOGIN_PAGE = {"multi_user": True}, "<html>log in</html>"


@pytest.mark.parametrize(
    ("health", "refusal", "namespace", "words"),
    [
        (MULTI_USER, (401, {"message": "no\n user"}), "mtorl", "status 401: the token ($KFP_EXISTING_TOKEN) may"),
        (MULTI_USER, (403, {"error": "no"}), "theirs", "status 403: check --namespace; or the token"),
        (MULTI_USER, (500, {}), "mtorl", "status 500: Message of the server: {}"),
        (MULTI_USER, None, "", "the server needs a namespace: name yours with --namespace"),
        (LOGIN_PAGE, None, "mtorl", "the answer is not from Kubeflow Pipelines"),
    ],
)
def test_the_reason_of_a_refusal_is_one_line(
    kfp: FakeKfp, health: Any, refusal: Any, namespace: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")  # hides the SDK's context file
    kfp.health = health
    if refusal:
        kfp.refuse_after, kfp.refusal = -1, refusal
    code, said = invoke(kfp, "upload", str(TRAIN), namespace=namespace)
    assert code == 1 and words in said and said.startswith("mtorl: ") and said.count("\n") == 1


def test_an_unreachable_endpoint_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, said = invoke(FakeKfp(endpoint), "upload", str(TRAIN))
    assert code == 1 and said.count("\n") == 1
    assert said.startswith(f"mtorl: {endpoint}: Kubeflow Pipelines does not answer")


def documented() -> list[str]:
    pages = [ROOT / "docs" / "pipelines.md", *(ROOT / "docs" / "runbooks").glob("MtorlPipeline*.md")]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    return sorted({" ".join(line.split()) for line in re.findall(r"^(?:\$ )?kfp ([^#\n]+)", text, re.M)})


def test_each_kfp_command_in_the_manual_exists() -> None:
    assert len(documented()) >= 4
    for line in documented():
        group, command, *words = shlex.split(line)
        found = kfp_command.commands[group].commands[command]  # type: ignore[attr-defined]
        given = [str(TRAIN) if word.endswith(".yaml") and "=" not in word else word for word in words]
        with found.make_context(command, given, parent=click.Context(kfp_command)) as context:
            assert context.params, line

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.http import send_request
from serving.local.ports import free_ports
from serving.local.predictor import LocalPredictor
from serving.local.stack import LocalStack, StackError
from serving.router.flow.requests import DecisionParser
from tests.serving.small_run import small_run
from tests.waiting import eventually


def decide(url: str, *instances: Any) -> list[dict[str, Any]]:
    answer = send_request(f"{url}/v1/models/ads:predict", {"instances": instances}, seconds=60)
    return json.loads(answer.content)["predictions"]  # type: ignore[no-any-return]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path)


@pytest.fixture
def example(run: Path) -> dict[str, Any]:
    spec = DatasetSpec.load(run / "artifacts" / "challenger" / "dataset.yaml")
    return DecisionParser(spec, dict.fromkeys(spec.channels, 1.0)).example


def test_an_empty_store_and_a_model_that_does_not_load_are_reported(run: Path, tmp_path: Path) -> None:
    empty = LocalPredictor(tmp_path, tmp_path / "work")
    with pytest.raises(StackError, match=r"no \.mar file"):
        empty.start()
    empty.stop()
    with pytest.raises(StackError, match="not started"):
        empty.check()
    artifact = run / "model-store" / "challenger.mar"
    content = bytearray(artifact.read_bytes())
    at = content.index(b"network.onnx") + 200
    content[at : at + 8] = b"\0" * 8
    artifact.write_bytes(content)
    with pytest.raises(StackError, match=r"challenger\.mar"):
        LocalPredictor(run / "model-store", tmp_path / "work").start()


@pytest.mark.integration
def test_a_router_uses_a_socket_and_falls_back_when_the_predictor_dies(run: Path, example: Any) -> None:
    with LocalStack(run, runtime="predictor") as stack:
        place = urlsplit(stack.models.endpoint("challenger"))
        socket = Path(unquote(place.netloc))
        assert place.scheme == "http+unix" and stat.S_ISSOCK(socket.stat().st_mode)
        (answer,) = decide(stack.url, example)
        assert answer["fallback_reason"] is None and answer["model"]["name"] == answer["arm"]
        command = [sys.executable, "-P", "-m", "serving.predictor", "--host", str(socket), "--name", "another"]
        command += ["--artifact", str(run / "artifacts" / "challenger")]
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 2 and "another process answers" in second.stderr
        stack.restart_models()
        stack.wait_for_experiment()
        assert not socket.exists(), "the router now uses a new socket"
        (answer,) = decide(stack.url, example)
        assert answer["fallback_reason"] is None
        os.killpg(stack.models.pid or 0, signal.SIGKILL)
        (answer,) = decide(stack.url, example)
        assert answer["fallback_reason"] in ("model_error", "model_timeout")
        with pytest.raises(StackError, match="has stopped"):
            eventually(stack.check)


@pytest.mark.integration
def test_a_port_serves_all_models(run: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with LocalPredictor(run / "model-store", tmp_path / "work", port=port) as server:
        assert server.models == ("challenger", "incumbent")
        for model in server.models:
            assert server.endpoint(model) == f"http://127.0.0.1:{port}/v1/models/{model}:predict"
            assert json.loads(send_request(f"http://127.0.0.1:{port}/v1/models/{model}", seconds=60).content)["ready"]
    assert server.pid is None and not list((tmp_path / "work").glob("mtorl-*")), "nothing is left behind"

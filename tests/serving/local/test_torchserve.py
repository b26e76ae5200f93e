import json
import os
import socket
import zipfile
from pathlib import Path

import psutil
import pytest

from mtorl.runtime.http import send_request
from serving import messages
from serving.archive import MODEL_CONFIG
from serving.local import torchserve
from serving.local.ports import free_ports
from serving.local.stack import StackError
from serving.local.torchserve import TorchServe, config_properties
from tests.messages import raises
from tests.waiting import eventually

# A handler that answers with the name in model.json, and fails to load "broken".
HANDLER = """
import json, logging
from pathlib import Path
class Echo:
    def initialize(self, context):
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
        self.model = json.loads((Path(context.system_properties["model_dir"]) / "artifact" / "model.json").read_text())
        if self.model["name"] == "broken":
            raise ValueError("network.onnx does not match its checksum")
    def handle(self, data, context):
        return [json.dumps({"predictions": [self.model["name"]]}).encode()] * len(data)
"""


def store_with(folder: Path, **models: str) -> Path:
    store = folder / "store"
    store.mkdir()
    for name, artifact_name in models.items():
        model = {"modelName": name, "modelVersion": "1", "handler": "echo_handler.py", "configFile": MODEL_CONFIG.name}
        with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
            archive.write(MODEL_CONFIG, MODEL_CONFIG.name)
            archive.writestr("echo_handler.py", HANDLER)
            archive.writestr("artifact/model.json", json.dumps({"name": artifact_name}))
    return store


def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchserve, "java_home", lambda: tmp_path)  # the port is checked before Java starts
    store = tmp_path / "store"
    store.mkdir()
    (store / "echo.mar").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with raises(StackError, messages.PORT_TAKEN, port=port):
            TorchServe(store, tmp_path / "work", port=port).start()


def test_the_configuration_listens_on_localhost_only(tmp_path: Path) -> None:
    (tmp_path / "b.mar").touch()
    (tmp_path / "a.mar").touch()
    server = TorchServe(tmp_path, tmp_path / "work")
    server.inference_url, server.management_url = "http+unix://%2Fown%2Fmodels", "http://127.0.0.1:1"
    server.metrics_url = server.management_url
    lines = dict(line.split("=", 1) for line in config_properties(server, (2, 3)).splitlines())
    assert lines.pop("inference_address") == "unix:/own/models"
    assert all(value.startswith(("http://127.0.0.1:", "127.0.0.1")) for k, value in lines.items() if "_address" in k)
    assert lines["load_models"] == "a=a.mar,b=b.mar", "each model is named after its file"
    assert lines["enable_model_api"] == "false"
    assert lines["metrics_mode"] == "prometheus"


@pytest.mark.integration
def test_two_models_answer_and_a_dead_server_is_noticed(tmp_path, all_gone, monkeypatch) -> None:
    """If another process takes one of the ports, other ports are used."""
    store = store_with(tmp_path, incumbent="first", challenger="second")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        choices = [(*free_ports(3), taken.getsockname()[1])]  # the taken port is noticed last
        monkeypatch.setattr(torchserve, "free_ports", lambda n: choices.pop() if choices else free_ports(n))
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        with TorchServe(store, tmp_path / "work") as server:
            server.start()  # has no effect
            log = server.log.read_text()
            commands = [" ".join(p.cmdline()) for p in psutil.Process(server.pid).children(recursive=True)]
            assert sum("model_service_worker" in command for command in commands) == 4, "two workers per model"
            assert "already in use" in log
            for model, name in (("incumbent", "first"), ("challenger", "second")):
                assert json.loads(send_request(server.endpoint(model), {"instances": []}, seconds=120).content) == {
                    "predictions": [name]
                }
            for _ in range(20):
                send_request(server.endpoint("challenger"), {}, seconds=120)
            assert server.log.read_text() == log
            assert b"ts_inference_requests_total" in send_request(f"{server.metrics_url}/metrics", seconds=120).content
            server.check()
            java = next(p for p in psutil.Process(server.pid).children() if "java" in p.name())
            java.kill()
            eventually(lambda: not psutil.pid_exists(java.pid))
            with pytest.raises(StackError, match="TorchServe has stopped"):
                eventually(server.check)
            all_gone()
    server.stop()
    assert server.pid is None


@pytest.mark.integration
def test_a_model_that_does_not_load_is_reported_at_once(tmp_path, all_gone) -> None:
    store = store_with(tmp_path, challenger="broken")
    with pytest.raises(StackError, match=r"challenger did not load.*network\.onnx"):
        TorchServe(store, tmp_path / "work").start()
    all_gone()

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtorl.runtime.http import send_request
from serving import messages
from serving.decision_log import segments
from serving.decision_log.segments import path_of
from serving.local import stack as stack_module
from serving.local.model_server import ModelServer
from serving.local.stack import LocalStack, Own, StackError
from tests.messages import raises

pytestmark = pytest.mark.integration

# Like the real router, it locks the spool and finishes its work on SIGTERM.
ROUTER = """
import fcntl, http.server, json, signal, sys, threading, time, yaml
def log(message):
    print(json.dumps({"message": message}), flush=True)
spool = open("spool.lock", "w")
fcntl.flock(spool, fcntl.LOCK_EX | fcntl.LOCK_NB)
config = yaml.safe_load(open(sys.argv[2]))
if config["cost_cap"] == {"fail": 1}:
    sys.exit("no such feature repository")
if config["cost_cap"] == {"wait": 1}:
    log("the router waits: no feature registry yet at features/registry.db")
    time.sleep(3600)
class Alive(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
server = http.server.HTTPServer((config["host"], config["port"]), Alive)
def drain(*_):
    time.sleep(0.5)
    open("events", "a").write("router drained\\n")
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, drain)
log(f"router ready http://127.0.0.1:{server.server_port}")
server.serve_forever()
"""


class FakeTorchServe(ModelServer):
    title = "TorchServe"
    pid: int | None = None  # type: ignore[assignment]

    def _start(self) -> None:
        self.pid, self.inference_url = os.getpid(), "http://127.0.0.1:1"

    def stop(self) -> None:
        self.pid = None
        with (self.workdir.parent / "events").open("a") as events:
            events.write("torchserve stopped\n")

    def check(self) -> None:
        assert self.pid


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = tmp_path / "run"
    for folder in ("model-store", "artifacts/challenger", "features", "serving"):
        (run / folder).mkdir(parents=True)
    for arm in ("incumbent", "challenger"):
        (run / "model-store" / f"{arm}.mar").touch()
    model = {"cost_cap": {"search": 1.5}, "default_channel": "search", "feature_service": "ad_decision_v1"}
    (run / "artifacts" / "challenger" / "model.json").write_text(json.dumps(model))
    arms = [{"name": "incumbent", "weight": 0.5, "endpoint": ""}, {"name": "challenger", "weight": 0.5, "endpoint": ""}]
    experiment = {"name": "first", "enabled": True, "arms": arms}
    (run / "serving" / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (tmp_path / "router.py").write_text(ROUTER)
    monkeypatch.setattr(stack_module, "ROUTER", (str(tmp_path / "router.py"),))
    monkeypatch.setattr(stack_module, "TorchServe", FakeTorchServe)
    return run


def test_the_router_gets_its_configuration_and_is_drained_before_torchserve_stops(run: Path, all_gone) -> None:
    with LocalStack(run) as stack:
        assert send_request(stack.url, seconds=60).status == 200
        assert set(stack.pids) == {"models", "router"}
        stack.check()
        stack.start()  # has no effect
        config = yaml.safe_load((run / "serving" / "router.yaml").read_text())
        assert config["port"] == 0
        assert (config["lake"], config["upload_seconds"]) == (str(run / "lake"), 1.0)
        assert config["cost_cap"] == {"search": 1.5}
        assert config["feature_service"] == "ad_decision_v1"
        assert config["dataset"] == str(run / "artifacts" / "challenger" / "dataset.yaml")
        assert config["feature_repo"] == str(run / "features")
        experiment = yaml.safe_load((run / "serving" / "experiment.yaml").read_text())
        assert [arm["endpoint"].rsplit("/", 1)[1] for arm in experiment["arms"]] == [
            "incumbent:predict",
            "challenger:predict",
        ]
        assert list(experiment) == ["arms", "enabled", "name"]  # in their original order
    stack.stop()
    assert stack.pids == {}
    assert (run / "serving" / "events").read_text().splitlines() == ["router drained", "torchserve stopped"]
    all_gone()


def test_an_own_experiment_is_not_changed_and_has_a_separate_state(run: Path, tmp_path: Path) -> None:
    file, state = tmp_path / "mine.yaml", tmp_path / "mine"
    arms = [
        {"name": "incumbent", "weight": 0.5, "endpoint": "http://elsewhere/decide"},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://127.0.0.1:8085"},
    ]
    file.write_text(text := "# with a comment\n" + yaml.safe_dump({"name": "mine", "arms": arms}))
    own = Own({"mine.yaml": file}, state)
    with LocalStack(run, own, models_port=8085), LocalStack(run):  # together with the run's own
        config = yaml.safe_load((state / "router.yaml").read_text())
    assert file.read_text() == text
    assert config["experiment"] == str(state / "experiments")
    assert (state / "experiments" / "mine.yaml").resolve() == file
    assert {config[name] for name in ("ledger", "spool", "lake")} == {
        str(state / name) for name in ("ledger.sqlite", "spool", "lake")
    }
    assert config["feature_repo"] == str(run / "features")


def test_wait_for_lake_waits_until_all_records_are_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "_UPLOAD_SECONDS", 0.2)
    spool, line = run / "serving" / "spool", b'{"decision_id": "d"}\n'
    with LocalStack(run) as stack:
        stack.wait_for_lake()
        spool.mkdir()
        path_of(spool, "decision", 1).write_bytes(line + b'{"deci')  # the second record is incomplete
        with raises(StackError, messages.NOT_UPLOADED, lake=run / "lake"):
            stack.wait_for_lake()
        segments.note_positions(spool, segments.UPLOADED, {"decision": segments.Position(1, len(line))})
        stack.wait_for_lake()


def test_a_run_can_be_served_again_but_not_twice_at_once(run: Path) -> None:
    stack = LocalStack(run)
    for _ in range(2):
        with stack, pytest.raises(StackError, match=f"already, by process {os.getpid()}"):
            LocalStack(run).start()
    # Claim the run before it is served, so that no other process changes its models.
    stack.claim()
    with pytest.raises(StackError, match=f"already, by process {os.getpid()}"):
        LocalStack(run).claim()
    with stack:
        pass
    LocalStack(run).claim()
    with pytest.raises(StackError, match="not started"):
        stack.models.pid = 1  # type: ignore[assignment]
        stack.check()


@pytest.mark.parametrize(
    ("does", "why"), [("fail", "no such feature repository"), ("wait", "no feature registry yet at features")]
)
def test_a_router_that_fails_or_waits_is_stopped_with_the_reason(run: Path, all_gone, does: str, why: str) -> None:
    model = {"cost_cap": {does: 1}, "feature_service": "ad_decision_v1"}
    (run / "artifacts" / "challenger" / "model.json").write_text(json.dumps(model))
    stack = LocalStack(run)
    with pytest.raises(StackError, match=why):
        stack.start()
    assert stack.pids == {}
    assert "torchserve stopped" in (run / "serving" / "events").read_text()
    all_gone()


def test_a_router_that_dies_later_ends_the_wait(run: Path) -> None:
    with LocalStack(run) as stack:
        os.killpg(stack.pids["router"], signal.SIGKILL)
        with raises(StackError, messages.ENDED, part="the router"):
            stack.wait()


def test_a_given_port_is_used_and_a_taken_port_is_an_error(run: Path) -> None:
    with LocalStack(run) as stack:
        port = int(stack.url.rsplit(":", 1)[1])
    with LocalStack(run, router_port=port) as stack:
        assert stack.url == f"http://127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StackError, match="already in use"):
        LocalStack(run, router_port=taken.getsockname()[1]).start()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "model-store" / "challenger.mar").unlink(), "arm 'challenger' has no challenger.mar"),
        (lambda run: (run / "serving" / "experiment.yaml").unlink(), "not an experiment file"),
        (lambda run: (run / "serving" / "experiment.yaml").write_text("arms: 3"), "not an experiment file"),
        (lambda run: (run / "artifacts" / "challenger" / "model.json").write_text("{}"), "not a model artifact"),
    ],
)
def test_a_missing_or_invalid_file_of_a_run_is_named(run: Path, spoil, message: str) -> None:
    spoil(run)
    with pytest.raises(StackError, match=message):
        LocalStack(run).start()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_process_that_holds_the_stack(run: Path, tmp_path: Path, all_gone, end) -> None:
    """The router first writes its pending records, and the run can be served again at once."""
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from serving.local import stack
stack.ROUTER = ({str(tmp_path / "router.py")!r},)
import test_stack
stack.TorchServe = test_stack.FakeTorchServe
with stack.LocalStack({str(run)!r}):
    print("ready", flush=True)
    time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout and parent.stdout.readline() == b"ready\n"
    parent.send_signal(end)
    parent.communicate(timeout=120)
    with LocalStack(run):
        assert "router drained" in (run / "serving" / "events").read_text()
    all_gone()

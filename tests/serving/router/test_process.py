import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from monitoring.decision_log import DecisionLog
from mtorl.experiment.assignment import draw
from serving.decision_log import Spool
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.router.messages import NO_REGISTRY
from tests.repository import ROOT
from tests.serving.router_fixtures import instance, write_settings
from tests.serving.router_process import Process
from tests.waiting import eventually


@pytest.mark.integration
def test_the_process_reads_feast_drains_on_sigterm_and_starts_again(folder: Path) -> None:
    with Process(folder) as process:
        at = "2026-01-01T12:00:00Z"
        known, unknown = process.predict(instance("u1", request_id="r1", timestamp=at), instance("stranger"))
        assert known["expose"] and unknown["expose"]
        u = draw("test", "s", "u1", "spring", "r1")
        window = next(item["window"] for _, item in process.arm.asked if item["u"] == u)
        assert window["prev_channel"] == [None, "search", "video"] and window["prev_click"] == [0.0, 0, 1]
        assert window["context"]["hour"] == [0.0, 1.0, 14.0] and window["static"] == {"age": "30-39"}
        assert "mtorl_decisions_total" in process.get("/metrics").text
        assert process.get("/v1/models/ads").json() == {"name": "ads", "ready": True}
        libraries = Path(f"/proc/{process.router.pid}/maps").read_text()
        assert "libtorch" not in libraries

        process.arm.mode = "hold"
        answers: list[dict[str, Any]] = []
        in_flight = [
            threading.Thread(target=lambda i=i: answers.extend(process.predict(instance(f"late{i}")))) for i in range(5)
        ]
        for thread in in_flight:
            thread.start()
        eventually(lambda: "mtorl_in_flight_requests 5.0" in process.get("/metrics").text)
        process.router.send_signal(signal.SIGTERM)
        process.let_arms_answer()
        for thread in in_flight:
            thread.join()
        assert process.router.wait(120) == 0
        assert [answer["expose"] for answer in answers] == [True] * 5
        log = (folder / "router.log").read_text()
        assert {json.loads(line)["level"] for line in log.splitlines()} <= {"info", "warning"}, log

    answered = {answer["decision_id"] for answer in [known, unknown, *answers]}
    spool = Spool(folder / "spool")
    assert answered == {record["decision_id"] for record in spool.read("decision")}
    spool.close()
    # After the router's final stop, the lake must have all records.
    with DecisionLog.of(str(folder / "lake")).opened() as db:
        assert answered == {one for (one,) in db.sql("SELECT decision_id FROM decision_log").fetchall()}
    with Process(folder) as process:
        assert process.predict(instance("u1"))[0]["expose"]
    assert len(SqliteLedger(folder / "ledger.sqlite").open_reservations()) == 8


@pytest.mark.integration
def test_a_router_reports_a_missing_feature_registry_and_waits_for_it(feast_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    shutil.copy(feast_repo / "feature_store.yaml", tmp_path / "features")
    (tmp_path / "features" / "online.db").symlink_to(feast_repo / "online.db")
    reason = NO_REGISTRY(file=f"{tmp_path}/features/registry.db")

    def wait(process: Process, reason: str = reason) -> None:
        eventually(lambda: reason in process.get("/health/ready").text)

    with Process(tmp_path, ready=False) as process:
        wait(process)
        assert process.get("/health/live").status_code == 200
        assert process.get("/v1/models/ads").status_code == 503
        refused = process.post("/v1/models/ads:predict", json={"instances": [instance("u1")]})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "2" and reason in refused.text
        assert process.get("/metrics", headers={"x": "y" * 40_000}).status_code == 431
        assert 'mtorl_refused_requests_total{status="431"} 1.0' in process.get("/metrics").text
        process.router.terminate()
        assert process.router.wait(60) == 0
        assert (tmp_path / "router.log").read_text().count(reason) == 1

    with Process(tmp_path, ready=False) as process:
        wait(process)
        assert not (tmp_path / "features" / "registry.db").exists()  # Feast would have created an empty file
        (tmp_path / "features" / "registry.db").write_bytes(b"\0half of one")
        wait(process, "being written")
        shutil.copy(feast_repo / "registry.db", tmp_path / "features")
        process.said("router ready http://127.0.0.1:")
        assert process.predict(instance("u1"))[0]["expose"]


@pytest.mark.integration
@pytest.mark.parametrize("taken_port", [None, "port"])
def test_a_router_that_cannot_start_says_why(tmp_path: Path, taken_port: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write_settings(tmp_path, "http://127.0.0.1:9", {}, **({taken_port: port} if taken_port else {}))
        command = [sys.executable, "-m", "serving.router", "--run-config", str(tmp_path / "router.yaml")]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 2, ended.stderr
    assert (f"127.0.0.1:{port}" if taken_port else "feature_repo") in ended.stderr
    assert "Traceback" not in ended.stderr and "never awaited" not in ended.stderr

"""Tests that a server logs one line per event, and the same cause at most once a minute."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.logs import JsonLine, OncePerCause, messages
from tests.repository import ROOT
from tests.serving.router_fixtures import Harness, instance, with_router


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr("serving.logs.time.monotonic", lambda: now[0])
    yield now


def logger() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLine())
    handler.addFilter(OncePerCause())
    found = logging.Logger("serving.test", logging.INFO)
    found.addHandler(handler)
    return found, stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_cause_is_logged_at_once_then_each_minute_with_the_number_left_out(clock: list[float]) -> None:
    log, stream = logger()
    for second in range(125):
        clock[0] = 1000.0 + second
        for arm in ("incumbent", "challenger"):
            log.warning("default, %s: %s", "ledger", second, extra={"arm": arm, "cause": "ledger"})
    said = [line for line in lines(stream) if line["arm"] == "challenger"]
    assert [line.get("left_out") for line in said] == [None, 59, 59]
    assert [line["message"] for line in said] == [f"default, ledger: {second}" for second in (0, 60, 120)]
    log.warning("default, %s: %s", "features", 1, extra={"arm": "challenger", "cause": "features"})
    log.info("router ready")
    log.info("router ready")
    assert [line["message"] for line in lines(stream)[-3:]] == ["default, features: 1", *["router ready"] * 2]


def test_the_number_of_remembered_causes_is_bounded() -> None:
    once = OncePerCause()
    for n in range(5000):
        record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (f"fault {n}",), None)
        assert once.filter(record) and len(once._causes) <= 1000


def test_a_traceback_is_part_of_its_line() -> None:
    log, stream = logger()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("a decision failed", extra={"decision_id": "d1", "request_id": None})
    (line,) = lines(stream)
    assert line["level"] == "error" and line["decision_id"] == "d1" and "request_id" not in line
    assert line["traceback"].startswith("Traceback") and line["traceback"].endswith("ValueError: two\nlines")
    assert line["time"].endswith("+00:00") and line["logger"] == "serving.test"


@given(st.text(), st.text())
def test_any_message_is_one_line_of_json(text: str, id_: str) -> None:
    log, stream = logger()
    log.warning("why: %s", text, extra={"request_id": id_})
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == f"why: {text}" and json.loads(line)["request_id"] == id_
    assert list(messages(["Traceback", "[]", "{}", line])) == [f"why: {text}"]


@with_router()
async def test_a_default_action_is_logged_with_ids_and_no_user(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    h.arm.mode = 500
    (answer,) = await h.predict(instance("somebody", request_id="r-7"))
    (record,) = [r for r in caplog.records if "default action" in r.getMessage()]
    line = json.loads(JsonLine().format(record))
    for key in ("experiment", "arm", "decision_id", "request_id"):
        assert line[key] == answer[key]
    assert line["cause"] == "status" and "HTTP 500" in line["message"]
    assert "somebody" not in json.dumps(line)


@pytest.mark.integration
def test_kserve_uvicorn_and_python_warnings_share_one_format() -> None:
    program = """
import logging, warnings
from serving.kserve_sdk import quiet
quiet()
for name in ("uvicorn.error", "kserve", "asyncio"):
    logging.getLogger(name).error("an error")
warnings.warn("a warning")
logging.getLogger("uvicorn.access").info("five lines a request")
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["logger"] for line in said] == ["uvicorn.error", "kserve", "asyncio", "py.warnings"]
    assert not ended.stdout

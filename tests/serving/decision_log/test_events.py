"""Tests that the CloudEvents SDK reads a record's values from its event."""

import json
from typing import Any

import pytest

from serving.decision_log.http_sink import encode
from serving.decision_log.segments import OLDEST, Batch
from tests.serving.shipping import RECORDS, parse, record


@pytest.mark.parametrize("number", [1, 3])
def test_events_are_cloudevents(number: int) -> None:
    lines = tuple(
        json.dumps({**RECORDS["outcome"], "event_id": f'e "{i}" 100%\nå€'}).encode() + b"\n" for i in range(number)
    )
    headers, body = encode(Batch("outcome", OLDEST, lines), "/s")
    for i, event in enumerate(parse(headers, body)):
        assert event["specversion"] == "1.0" and event["type"] == "mtorl.outcome.v1" and event["source"] == "/s"
        assert event["time"] == RECORDS["outcome"]["event_time"]
        assert event["partitionkey"] == RECORDS["outcome"]["decision_id"]
        data = event["data"] if isinstance(event["data"], dict) else json.loads(event["data"])
        assert data == json.loads(lines[i])
        assert event["id"] == f'e "{i}" 100%\nå€'


def test_a_withdrawal_has_a_different_event_id() -> None:
    def event_id(**changes: Any) -> str:
        line = json.dumps(record("decision", "d", **changes)).encode()
        (event,) = parse(*encode(Batch("decision", OLDEST, (line,)), "/s"))
        return str(event["id"])

    assert event_id() == "d" and event_id(fallback_reason="ledger") == "d"
    assert event_id(expose=False, fallback_reason="log", withdrawn=True) == "d.withdrawn"

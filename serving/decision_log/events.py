"""A record as a CloudEvent 1.0, in the two forms that HTTP knows: one event a request (binary), or a JSON batch."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from mtorl.log.records import ID_FIELD, Kind

JSON = "application/json"
BATCH_JSON = "application/cloudevents-batch+json"
# The HTTP binding of CloudEvents: in header values, a space, '"', '%' and all but printable ASCII are percent-encoded.
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def attributes(kind: Kind, line: bytes, source: str) -> dict[str, str]:
    """The context attributes of a record.

    The withdrawal of a decision has the id `<decision_id>.withdrawn`, so that a consumer does not drop it as a
    duplicate. `partitionkey` keeps a decision and its outcomes together.

    Raises:
        ValueError: The line is not a record.
    """
    record: Any = orjson.loads(line)  # JSONDecodeError is a ValueError
    try:
        event_id = record[ID_FIELD[kind]]
        if kind == "decision" and record["withdrawn"]:
            event_id += ".withdrawn"
        context = {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": f"mtorl.{kind}.v{record['schema_version']}",
            "time": record["event_time"],
            "partitionkey": record["decision_id"],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a {kind} record: {error!r}") from None
    if wrong := [name for name, value in context.items() if not isinstance(value, str)]:
        raise ValueError(f"not a {kind} record: no text for {', '.join(wrong)}")
    return context


def binary(kind: Kind, line: bytes, source: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with one event."""
    headers = {f"ce-{name}": quote(value, safe=_PRINTABLE) for name, value in attributes(kind, line, source).items()}
    return {**headers, "content-type": JSON}, line.rstrip(b"\n")


def batch(kind: Kind, lines: tuple[bytes, ...], source: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with many events; the records are copied from disk without decoding them."""
    events = (
        orjson.dumps(attributes(kind, line, source) | {"datacontenttype": JSON})[:-1]
        + b',"data":'
        + line.rstrip(b"\n")
        + b"}"
        for line in lines
    )
    return {"content-type": BATCH_JSON}, b"[" + b",".join(events) + b"]"

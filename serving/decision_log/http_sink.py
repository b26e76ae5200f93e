"""The sink of a cluster: CloudEvents 1.0 over HTTP, one event a request (binary form) or a JSON batch."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from typing_extensions import override

from mtorl.log.records import ID_FIELD, Kind
from serving.decision_log.position import Batch
from serving.decision_log.sink import Refused, Sink, SinkUnavailable

JSON = "application/json"
BATCH_JSON = "application/cloudevents-batch+json"
# The HTTP binding of CloudEvents: in header values, a space, '"', '%' and all but printable ASCII are percent-encoded.
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
BATCH = 64  # records; encoding them takes less than a millisecond of the event loop, which decisions share
_ANSWER_SECONDS = 10.0
_LONGEST_RETRY_AFTER = 300.0
# Status codes that refuse a record. Any other 4xx (no such path, no permission, ...) is a fault of the address or the
# settings: if it were taken for a refusal, one wrong URL would set the whole log aside.
_REFUSALS = {400, 409, 413, 422}
_NO_BATCHES = 415  # unsupported media type: the sink may still take single events


class HttpSink(Sink):
    """Posts events to a URL; an answer of 2xx acknowledges them.

    Args:
        largest: Records in a request. More than one go as a JSON batch, which Knative's brokers do not take.
    """

    linger = 0.0
    kinds: tuple[Kind, ...] = ("decision", "outcome", "shadow")

    def __init__(self, url: str, source: str, largest: int = BATCH) -> None:
        self.largest = largest
        self.url = url
        self.source = source
        self._session: aiohttp.ClientSession | None = None

    @override
    async def deliver(self, batch: Batch) -> None:
        try:
            if len(batch) == 1:
                headers, body = binary(batch.kind, batch.lines[0], self.source)
            else:
                headers, body = json_batch(batch.kind, batch.lines, self.source)
        except ValueError as error:
            raise Refused(str(error)) from None
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, skip_auto_headers=["User-Agent"])
        try:
            async with self._session.post(self.url, data=body, headers=headers, allow_redirects=False) as response:
                if 200 <= response.status < 300:
                    return
                text = (await response.content.read(300)).decode(errors="replace")
        except TimeoutError as error:
            raise SinkUnavailable("timeout", f"no answer in {_ANSWER_SECONDS:.0f} s") from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise SinkUnavailable("network", f"{type(error).__name__}: {error}") from error
        answer = f"{response.status} {text}"
        if response.status in _REFUSALS or (response.status == _NO_BATCHES and len(batch) > 1):
            raise Refused(answer)
        wait = retry_after(response.headers.get("Retry-After", ""))
        usual = "server_error" if response.status >= 500 else "not_accepted"
        raise SinkUnavailable({429: "throttled", 408: "timeout"}.get(response.status, usual), answer, wait)

    @override
    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def retry_after(text: str) -> float:
    """Seconds that a header Retry-After asks for, by a number or a date; 0 for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def attributes(kind: Kind, line: bytes, source: str) -> dict[str, str]:
    """The context attributes of a record; a ValueError if the line is none.

    The withdrawal of a decision has the id `<decision_id>.withdrawn`, so that a consumer does not drop it as a
    duplicate. `partitionkey` keeps a decision and its outcomes together.
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


def json_batch(kind: Kind, lines: tuple[bytes, ...], source: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with many events; the records are copied from disk without decoding them."""
    events = (
        orjson.dumps(attributes(kind, line, source) | {"datacontenttype": JSON})[:-1]
        + b',"data":'
        + line.rstrip(b"\n")
        + b"}"
        for line in lines
    )
    return {"content-type": BATCH_JSON}, b"[" + b",".join(events) + b"]"

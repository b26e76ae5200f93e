"""Sends records as CloudEvents 1.0 over HTTP (structured mode), singly or in batches."""

import asyncio
from typing import Any

import aiohttp
import orjson
from typing_extensions import override

from mtorl.log.records import ID_FIELD, Kind
from serving.decision_log.segments import Batch
from serving.decision_log.shipper import Refused, Sink, SinkUnavailable

BATCH = 64  # records per request: encoding them blocks the event loop
_ANSWER_SECONDS = 10.0
_LONGEST_RETRY_AFTER = 300.0
# The server refuses this one record. Any other 4xx, such as 404, affects all records.
_REFUSALS = {400, 409, 413, 422}
_NO_BATCHES = 415  # unsupported media type: the sink may accept single events


class HttpSink(Sink):
    """A sink that posts records to a URL as CloudEvents."""

    linger = 0.0
    kinds: tuple[Kind, ...] = ("decision", "outcome", "shadow")

    def __init__(self, url: str, source: str, largest: int = BATCH) -> None:
        self.largest = largest  # 1 for Knative's brokers, which accept no batches
        self.url = url
        self.source = source
        self._session: aiohttp.ClientSession | None = None

    @override
    async def deliver(self, batch: Batch) -> None:
        headers, body = encode(batch, self.source)
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
        # A Retry-After header with a date is rare, and is ignored.
        asked = response.headers.get("Retry-After", "")
        wait = min(float(asked), _LONGEST_RETRY_AFTER) if asked.isdecimal() else 0.0
        usual = "server_error" if response.status >= 500 else "not_accepted"
        raise SinkUnavailable({429: "throttled", 408: "timeout"}.get(response.status, usual), answer, wait)

    @override
    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def encode(batch: Batch, source: str) -> tuple[dict[str, str], bytes]:
    """Build the headers and body of a batch's request; raises Refused for an invalid record."""
    events = [
        orjson.dumps(_context(batch.kind, line, source))[:-1] + b',"data":' + line.rstrip(b"\n") + b"}"
        for line in batch.lines
    ]
    if len(events) == 1:
        return {"content-type": "application/cloudevents+json"}, events[0]
    return {"content-type": "application/cloudevents-batch+json"}, b"[" + b",".join(events) + b"]"


def _context(kind: Kind, line: bytes, source: str) -> dict[str, str]:
    """Build the CloudEvents attributes of a record.

    A withdrawal has another id than its decision, because consumers would drop an event with the same id.
    """
    try:
        record: Any = orjson.loads(line)
        context = {
            "specversion": "1.0",
            "id": record[ID_FIELD[kind]] + ".withdrawn" * (kind == "decision" and record["withdrawn"]),
            "source": source,
            "type": f"mtorl.{kind}.v{record['schema_version']}",
            "time": record["event_time"],
            "partitionkey": record["decision_id"],
            "datacontenttype": "application/json",
        }
    except (KeyError, TypeError, ValueError) as error:  # ValueError: no JSON
        raise Refused(f"not a {kind} record: {error!r}") from None
    if wrong := [name for name, value in context.items() if not isinstance(value, str)]:
        raise Refused(f"not a {kind} record: no text for {', '.join(wrong)}")
    return context

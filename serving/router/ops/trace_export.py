"""OpenTelemetry's SDK, set up to send traces in the background; imported only where tracing is on.

A collector that is slow or away costs spans and nothing else. They wait in a queue that is bounded, a thread of its own
sends them, and `mtorl_trace_spans_total` counts those that were sent, those that the collector did not take in time,
and those for which the queue had no room. The SDK's own queue would log a line for each of the latter.

Where the collector wants more than a URL, OpenTelemetry's own variables say it: OTEL_EXPORTER_OTLP_HEADERS (a token),
OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from random import random

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, SpanKind, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mtorl import __version__
from serving.router.ops import metrics
from serving.router.ops.settings import Tracing

_MOST_WAITING = 4096  # spans that have ended and are not sent: some ten megabytes
_BATCH = 128  # spans in a request to the collector, which take the interpreter a few milliseconds
_EVERY_MS = 1000.0  # between two requests, while fewer wait
_SECONDS = 2.0  # for the collector to take a batch
_LAST_SECONDS = 1.0  # at the end, for what waits then
_CARRIED = (b"traceparent", b"tracestate")


class Traces:
    """Spans on their way to a collector.

    Args:
        settings: Where they are sent to, and of how many requests.
    """

    def __init__(self, settings: Tracing) -> None:
        self._exporter = _Counting(_otlp(settings.endpoint))
        about = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or "mtorl-router",
            "service.version": __version__,
            "service.instance.id": socket.gethostname(),
        }
        self._share = settings.share
        # It is no global: FastAPI would trace each request a second time.
        self._provider = TracerProvider(ParentBased(ALWAYS_ON), Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(_Bounded(self._exporter))
        self._tracer = self._provider.get_tracer("mtorl.router", __version__)
        self._w3c = TraceContextTextMapPropagator()

    def root(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span | None:
        """A span for a request with these headers; None: it is in no trace.

        The share is drawn here, and not by a sampler of the SDK, which makes a span for each request before it asks.
        """
        carrier = {key.decode(): value.decode("latin-1") for key, value in headers if key in _CARRIED}
        context = self._w3c.extract(carrier) if carrier else Context()
        if not get_current_span(context).get_span_context().is_valid and random() >= self._share:
            return None
        return self._tracer.start_span(name, context, SpanKind.SERVER)

    def child(self, name: str, parent: Span, attributes: Mapping[str, str | int]) -> Span:
        """A part of a span."""
        return self._tracer.start_span(name, set_span_in_context(parent), attributes=attributes)

    def headers(self, span: Span) -> dict[str, str]:
        """Of a call that is a part of a span."""
        headers: dict[str, str] = {}
        self._w3c.inject(headers, set_span_in_context(span))
        return headers

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._exporter.until = time.monotonic() + _LAST_SECONDS
        # A server that sends its answer a byte at a time holds a call for as long as it likes.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_LAST_SECONDS + _SECONDS + 0.5)


def _otlp(endpoint: str) -> SpanExporter:
    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_SECONDS)


class _Counting(SpanExporter):
    """Counts what becomes of spans. Called by the thread of the batches alone.

    Attributes:
        handled: Spans that were sent, or given up.
        until: When to give up all that is left.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.handled = 0
        self.until = float("inf")
        for result in ("sent", "failed", "dropped"):  # from 0: Prometheus sees no increase in a series that is new
            metrics.TRACE_SPANS.labels(result)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = SpanExportResult.FAILURE
        try:
            if time.monotonic() < self.until:
                result = self._exporter.export(spans)
        finally:
            self.handled += len(spans)
            metrics.TRACE_SPANS.labels("sent" if result is SpanExportResult.SUCCESS else "failed").inc(len(spans))
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


class _Bounded(SpanProcessor):
    """The SDK's batches, and a limit to how many spans wait. Spans end in the event loop alone."""

    def __init__(self, exporter: _Counting) -> None:
        self._exporter = exporter
        self._taken = 0
        self._batches = BatchSpanProcessor(exporter, _MOST_WAITING + _BATCH, _EVERY_MS, _BATCH)

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, if there is room."""
        if self._taken - self._exporter.handled >= _MOST_WAITING:
            metrics.TRACE_SPANS.labels("dropped").inc()
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits."""
        self._batches.shutdown()

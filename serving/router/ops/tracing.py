"""Traces the stages of a share of the requests, and sends the spans to an OpenTelemetry collector.

Spans contain no user, no context, no money and no error text.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from mtorl import __version__
from serving.router.ops.settings import Tracing

Traits = Callable[[], Mapping[str, AttributeValue]]
"""Type of a function that returns the attributes of a span. It is called only if the span is recorded."""

_CARRIED = (b"traceparent", b"tracestate")
_W3C = TraceContextTextMapPropagator()
_SECONDS = 2.0  # timeout of a request to the collector
_LAST_SECONDS = 3.0  # seconds at shutdown to send waiting spans

_OFF = nullcontext(INVALID_SPAN)
_provider: TracerProvider | None = None  # KServe's libraries would add spans to the global provider
_tracer: Tracer | None = None

here = get_current_span
"""Returns the current span of this context, so that another thread can use it as the parent of its spans."""


def request(name: str, headers: Iterable[tuple[bytes, bytes]]) -> AbstractContextManager[Span]:
    """Start a request's span, in the trace of a valid `traceparent` in `headers` (lower-case names)."""
    if _tracer is None:
        return _OFF
    carrier = {key.decode(): value.decode("latin-1") for key, value in headers if key in _CARRIED}
    return _current(_tracer, name, _W3C.extract(carrier, Context()), SpanKind.SERVER)


def span(name: str, traits: Traits | None = None, of: Span | None = None) -> AbstractContextManager[Span]:
    """Start a child span of `of`, by default of the current span. If the request is not traced, return the parent."""
    if _tracer is None:
        return _OFF
    parent = of or get_current_span()
    if not _sampled(parent):
        return nullcontext(parent)
    return _current(_tracer, name, set_span_in_context(parent), SpanKind.INTERNAL, traits)


@contextmanager
def spans(name: str, parts: Iterable[tuple[Traits, Span]]) -> Iterator[list[Span]]:
    """Start one span per request for shared work; `parts` are attributes and parents."""
    with ExitStack() as stack:
        yield [] if _tracer is None else [stack.enter_context(span(name, traits, of)) for traits, of in parts]


@contextmanager
def _current(
    tracer: Tracer, name: str, context: Context, kind: SpanKind, traits: Traits | None = None
) -> Iterator[Span]:
    attributes = _named(traits) if traits else None
    # By default, the SDK would record error texts, which may contain a user id.
    with tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as started:
        try:
            yield started
        except BaseException as error:
            _fail(started, type(error).__name__)
            raise


def answered(of: Span, status: int) -> None:
    """Record the HTTP status of a request's answer in its span."""
    of.set_attribute("http.response.status_code", status)
    if status >= 500:
        _fail(of, str(status))


def note(traits: Traits) -> None:
    """Add attributes to the span of this context."""
    if (current := get_current_span()).is_recording():
        current.set_attributes(_named(traits))


def outgoing(spans: Iterable[Span]) -> dict[str, str]:
    """Return the tracing headers for one call that serves several requests.

    The first recorded span becomes the parent of the call, and the other spans link to it.
    """
    if _tracer is None or not (known := sorted(spans, key=_sampled, reverse=True)):
        return {}
    headers: dict[str, str] = {}
    _W3C.inject(headers, set_span_in_context(known[0]))
    for other in known[1:]:
        if other.is_recording():
            other.add_link(known[0].get_span_context())
    return headers


def _sampled(of: Span) -> bool:
    """Whether a span is recorded, or was recorded before its end."""
    return of.get_span_context().trace_flags.sampled


def _named(traits: Traits) -> dict[str, AttributeValue]:
    return {f"mtorl.{name}": value for name, value in traits().items()}


def _fail(of: Span, what: str) -> None:
    of.set_attribute("error.type", what)
    of.set_status(StatusCode.ERROR)


def start(settings: Tracing) -> None:
    """Start tracing."""
    global _provider, _tracer
    about = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME") or "mtorl-router",
        "service.version": __version__,
        "service.instance.id": socket.gethostname(),
    }
    sampler = ParentBased(TraceIdRatioBased(settings.share))
    _provider = TracerProvider(sampler, Resource.create(about), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(_exporter(settings.endpoint), schedule_delay_millis=1000))
    _tracer = _provider.get_tracer("mtorl.router", __version__)


def _exporter(endpoint: str) -> SpanExporter:
    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_SECONDS)


async def stop() -> None:
    """Send the waiting spans for a few seconds, then stop tracing."""
    global _provider, _tracer
    stopped, _provider, _tracer = _provider, None, None
    if stopped is not None:
        # Wait in a thread with a limit: the SDK itself waits for 30 s, or forever if a server answers byte by byte.
        closing = threading.Thread(target=stopped.shutdown, name="tracing-close", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _LAST_SECONDS)

"""Traces: how long each stage of a request took, for a share of the requests, sent to an OpenTelemetry collector.

    tracing: {endpoint: "http://otel-collector:4318", share: 0.01}      # in the router's settings; without it, off

    decide               a request for decisions, from its body to the answer: waiting for room counts
      features           one read for all that an arm decides of it
      model              an arm that is asked for some of its decisions; an endpoint hears of the trace in `traceparent`
      ledger             a reservation, or whether an earlier one still stands
      log                until the record of a decision is on disk
      shadow             a challenger that is asked at stage `shadow`, after the answer
    outcomes             a report of outcomes
      log                until they are on disk
      ledger             their settlement

A caller that sends `traceparent` says itself whether its request is traced; of all others the share is. No user, no
context, no amount of money and no text of an error is in a span: `PendingDecision.traits` is what one says of a
decision.

While tracing is off, OpenTelemetry's SDK is not imported, and a place in the flow costs a look at a variable. What is
traced leaves in the background (`trace_export.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.router.ops.settings import SettingsError, Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from serving.router.ops.trace_export import Traces

Traits = Callable[[], Mapping[str, str | int]]
"""What a span says; called only if it is recorded."""
Send = Callable[[Any], Awaitable[None]]

_HERE: ContextVar[Span | None] = ContextVar("_HERE", default=None)
_traces: Traces | None = None


class Part:
    """In place of a span that nobody records.

    Attributes:
        span: What is recorded; None: nothing.
    """

    span: Span | None = None

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def watch(self, send: Send) -> Send:
        """An ASGI channel, whose answers' status the span is to say."""
        return send


_NOTHING = Part()


class _Recorded(Part):
    """Whatever happens inside belongs to a span, which ends with it."""

    span: Span

    def __init__(self, span: Span) -> None:
        self.span = span

    def __enter__(self) -> _Recorded:
        self._before = _HERE.get()
        _HERE.set(self.span)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _HERE.set(self._before)
        if kind is not None:
            self._fail(kind.__name__)  # its text may name a user
        self.span.end()

    def watch(self, send: Send) -> Send:
        if not _sampled(self.span):
            return send

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.span.set_attribute("http.response.status_code", status := message["status"])
                if status >= 500:
                    self._fail(str(status))
            await send(message)

        return watched

    def _fail(self, what: str) -> None:
        from opentelemetry.trace import StatusCode

        self.span.set_attribute("error.type", what)
        self.span.set_status(StatusCode.ERROR)


def request(name: str, headers: Iterable[tuple[bytes, bytes]]) -> Part:
    """A request that has come in, as a context manager: a part of its caller's trace, or the root of one.

    Args:
        name: Of the span: one of few.
        headers: Of the request, with names in lower case. What is no valid `traceparent` is ignored.
    """
    if _traces is None or (span := _traces.root(name, headers)) is None:
        return _NOTHING
    return _Recorded(span)


def span(name: str, traits: Traits | None = None, of: Span | None = None) -> Part:
    """A part of a request that is traced, as a context manager; of any other, nothing.

    Args:
        name: Of the span: one of few.
        traits: What it says.
        of: The span that it is a part of; by default, that of this context.
    """
    if _traces is None or (parent := of or _HERE.get()) is None or not _sampled(parent):
        return _NOTHING
    return _Recorded(_traces.child(name, parent, _named(traits) if traits else {}))


def note(traits: Traits) -> None:
    """Let the span of this context say something more."""
    if _traces is not None and (span := _HERE.get()) is not None and span.is_recording():
        span.set_attributes(_named(traits))


def here() -> Span | None:
    """The span of this context, for what is done elsewhere on its behalf."""
    return None if _traces is None else _HERE.get()


def outgoing(spans: Iterable[Span | None]) -> dict[str, str]:
    """Headers of a call that several spans share.

    It can belong to one trace alone: that of the first span that is recorded. The others are linked to it.
    """
    known = [span for span in spans if span is not None]
    if _traces is None or not known:
        return {}
    known.sort(key=_sampled, reverse=True)
    for other in known[1:]:
        if other.is_recording():
            other.add_link(known[0].get_span_context())
    return _traces.headers(known[0])


def _sampled(span: Span) -> bool:
    """Whether it is recorded, or was before it ended."""
    return span.get_span_context().trace_flags.sampled


def _named(traits: Traits) -> dict[str, str | int]:
    return {f"mtorl.{name}": value for name, value in traits().items()}


def start(settings: Tracing) -> None:
    """Trace from now on.

    Raises:
        SettingsError: OpenTelemetry's SDK is not installed.
    """
    global _traces
    try:
        from serving.router.ops.trace_export import Traces
    except ImportError as error:
        raise SettingsError(
            f"tracing: {error}; install what it needs with pip install 'mtorl-kubeflow[router]', or remove the setting"
        ) from None
    _traces = Traces(settings)


async def stop() -> None:
    """Trace no more, and send what waits; a collector that hangs is not waited for."""
    global _traces
    stopped, _traces = _traces, None
    if stopped is not None:
        await asyncio.to_thread(stopped.close)

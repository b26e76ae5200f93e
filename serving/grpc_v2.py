"""Protocol v2 over gRPC: KServe's own service on an address of choice, behind rules.

KServe's server takes no interceptors, listens on every address, and answers INTERNAL to a malformed request; this one
is put together from its parts. gRPC itself limits the size of a message and of its metadata, and the number and time of
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from serving.connection_limits import Limits
from serving.kserve_sdk import (
    DECODING,
    CannotListen,
    InferenceError,
    InferenceServicer,
    InvalidInput,
    ModelNotFound,
    grpc_v2,
)

log = logging.getLogger(__name__)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PUBLIC = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
_CALLERS_MISTAKES = (InvalidInput, DecodeError, *DECODING)
_GRACE_SECONDS = 5.0  # for calls in flight at the end
_LAST_SECONDS = 0.2  # in which new calls are refused, before no more are taken
_MOST_RPCS = 256  # gRPC reads a message before anybody looks at the caller
_MOST_CONNECTIONS = 100  # callers of gRPC share one among many calls
_IDLE_MS = 65_000  # as over HTTP
_AGE_MS = 300_000  # the caller's library connects again, and perhaps to another replica
_LIMITS = Limits()

Headers = list[tuple[bytes, bytes]]
Rules = Callable[[Headers], AbstractAsyncContextManager[None]]
"""Surrounds each request for decisions, from before its message is read; it may raise `Refused`."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class Refused(Exception):
    """A call is not answered; the caller gets the code and the text."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Interceptor(aio.ServerInterceptor):
    """What HTTP's statuses say, in gRPC's words: 400 is INVALID_ARGUMENT, 404 NOT_FOUND, 500 INTERNAL."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.ends = False

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        """Put a handler that applies the rules in the place of the service's own."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        name = details.method.rpartition("/")[2]
        if details.method != _INFER and name not in _PUBLIC:  # loading and unloading models, among others
            return grpc.unary_unary_rpc_method_handler(_unknown)
        # The message is parsed by `handle`: to gRPC, one that can't be parsed would be a fault of the server.
        return grpc.unary_unary_rpc_method_handler(
            self._checked(handler, details), response_serializer=handler.response_serializer
        )

    def _checked(self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails) -> Any:
        metadata = details.invocation_metadata
        headers = [(key.encode(), value.encode() if isinstance(value, str) else value) for key, value in metadata]
        rules = self._rules if details.method == _INFER else _no_rules

        async def handle(message: bytes, context: aio.ServicerContext) -> Any:
            if self.ends:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this server ends")
            try:
                async with rules(headers):
                    return await handler.unary_unary(handler.request_deserializer(message), context)
            except Refused as refusal:
                await context.abort(refusal.code, str(refusal))
            except ModelNotFound as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except _CALLERS_MISTAKES as error:
                text = str(error) if isinstance(error, InvalidInput) else _said(error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
            except Exception as error:
                text = str(error) if isinstance(error, InferenceError) else _said(error)
                log.error("INTERNAL, %s", text, exc_info=True, extra={"cause": type(error).__name__})
                await context.abort(grpc.StatusCode.INTERNAL, text)

        return handle


@contextlib.asynccontextmanager
async def _no_rules(_: Headers) -> Any:
    yield


async def _unknown(_: Any, context: aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not offered here")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class GrpcServer:
    """Serves while it is entered.

    Args:
        port: Port to listen on; 0 takes a free one.
        rules: Of requests for decisions; by default, all are answered.
    """

    def __init__(self, server: Any, host: str, port: int, max_bytes: int, rules: Rules = _no_rules) -> None:
        options = [
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_concurrent_streams", _MOST_RPCS),
            ("grpc.max_metadata_size", _LIMITS.head_bytes),
            ("grpc.absolute_max_metadata_size", _LIMITS.head_bytes),  # between the two, gRPC refuses some at random
            ("grpc.server_handshake_timeout_ms", int(_LIMITS.seconds * 1000)),  # for a connection to speak HTTP/2
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.max_connection_age_ms", _AGE_MS),  # ends, too, what a caller leaves half sent
            ("grpc.max_connection_age_grace_ms", int(_LIMITS.seconds * 1000)),
            ("grpc.max_allowed_incoming_connections", _MOST_CONNECTIONS),
            ("grpc.so_reuseport", 0),
        ]
        self._interceptor = _Interceptor(rules)
        self._server = aio.server(interceptors=[self._interceptor], options=options, maximum_concurrent_rpcs=_MOST_RPCS)
        servicer = InferenceServicer(server.dataplane, server.model_repository_extension)
        grpc_v2.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:  # its text only names the address; gRPC has written the cause
            raise CannotListen(f"gRPC can't listen on {address}") from None

    def end(self) -> None:
        """Refuse new calls; those in flight go on."""
        self._interceptor.ends = True

    async def __aenter__(self) -> GrpcServer:
        await self._server.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # What comes at the very moment at which gRPC stops is answered CANCELLED, and callers do not try that again.
        self.end()
        await asyncio.sleep(_LAST_SECONDS)
        with contextlib.suppress(Exception):
            await self._server.stop(_GRACE_SECONDS)

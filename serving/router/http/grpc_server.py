"""Protocol v2 over gRPC: KServe's own service, behind the same gateway as HTTP.

KServe's server takes no interceptors, listens on every address, and answers INTERNAL to a malformed request; this one
is put together from its parts. gRPC itself limits the size of a message and of its metadata, and the number and time of
connections; authentication reads the call's metadata.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from serving.connection_limits import Limits
from serving.kserve_sdk import DECODING, InferenceServicer, InvalidInput, ModelNotFound, add_inference_service
from serving.router.flow.admission import Saturated
from serving.router.flow.idempotency_cache import RequestConflict
from serving.router.http.gateway import Gateway
from serving.router.ops import metrics, tracing

log = logging.getLogger(__name__)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PUBLIC = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
_CALLERS_MISTAKES = (InvalidInput, DecodeError, *DECODING)
_GRACE_SECONDS = 5.0
_MOST_RPCS = 256  # gRPC reads a message before the caller is authenticated
_MOST_CONNECTIONS = 100  # callers of gRPC share one among many calls
_IDLE_MS = 65_000  # as over HTTP
_AGE_MS = 300_000  # the caller's library connects again, and perhaps to another replica
_LIMITS = Limits()

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class _Interceptor(aio.ServerInterceptor):
    """The gateway's rules in gRPC's words.

    400 is INVALID_ARGUMENT, 401 UNAUTHENTICATED, 404 NOT_FOUND, 409 ALREADY_EXISTS, 503 UNAVAILABLE, and 413, 429 and
    431 are RESOURCE_EXHAUSTED.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

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
        async def handle(message: bytes, context: aio.ServicerContext) -> Any:
            infers = details.method == _INFER
            headers = [(key.encode(), _bytes(value)) for key, value in details.invocation_metadata]
            if infers:
                await self._admit_caller(headers, context)
            try:
                request = handler.request_deserializer(message)
                if not infers:
                    return await handler.unary_unary(request, context)
                with tracing.request("decide", headers):
                    async with self._gateway.decisions.admit():
                        return await handler.unary_unary(request, context)
            except Saturated as error:
                metrics.REFUSED.labels("429").inc()
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"saturated: {error}; come again later")
            except RequestConflict as error:
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
            except ModelNotFound as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except _CALLERS_MISTAKES as error:
                text = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)

        return handle

    async def _admit_caller(self, headers: list[tuple[bytes, bytes]], context: aio.ServicerContext) -> None:
        if not self._gateway.authentication.admits(headers):
            metrics.REFUSED.labels("401").inc()
            hint = f"not authenticated: {self._gateway.authentication.hint}"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, hint)
        if reason := self._gateway.health.waiting_for:
            metrics.REFUSED.labels("503").inc()
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no decisions yet: {reason}")


async def _unknown(_: Any, context: aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not offered here")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


class GrpcServer:
    """Serves while it is entered.

    Args:
        server: KServe's, for its models.
        gateway: The rules.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(self, server: Any, gateway: Gateway, host: str, port: int) -> None:
        options = [
            ("grpc.max_receive_message_length", gateway.max_body_bytes),
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
        self._server = aio.server(
            interceptors=[_Interceptor(gateway)], options=options, maximum_concurrent_rpcs=_MOST_RPCS
        )
        servicer = InferenceServicer(server.dataplane, server.model_repository_extension)
        add_inference_service(servicer, self._server)
        self.port = self._server.add_insecure_port(f"{host}:{port}")

    async def __aenter__(self) -> GrpcServer:
        await self._server.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with contextlib.suppress(Exception):
            await self._server.stop(_GRACE_SECONDS)

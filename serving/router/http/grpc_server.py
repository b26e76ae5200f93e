"""Protocol v2 over gRPC: KServe's own service, behind the same gateway as HTTP.

KServe's server takes no interceptors, listens on every address, and answers INTERNAL to a malformed request; this one
is put together from its parts. gRPC itself limits the size of a message; authentication reads the call's metadata.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from serving.kserve_sdk import InferenceServicer, InvalidInput, ModelNotFound, add_inference_service
from serving.router.flow.admission import Saturated
from serving.router.http.gateway import Gateway
from serving.router.ops import metrics

log = logging.getLogger(__name__)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PUBLIC = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
_CALLERS_MISTAKES = (InvalidInput, KeyError, TypeError, ValueError, AttributeError, IndexError)
_GRACE_SECONDS = 5.0
_MOST_RPCS = 256  # gRPC reads a message before the caller is authenticated

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class _Interceptor(aio.ServerInterceptor):
    """The gateway's rules in gRPC's words.

    401 is UNAUTHENTICATED, 429 RESOURCE_EXHAUSTED, 400 INVALID_ARGUMENT, 503 UNAVAILABLE.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        """Put a handler that applies the rules in the place of the service's own."""
        name = details.method.rpartition("/")[2]
        if details.method == _INFER:
            handler = await continuation(details)
            checked = self._checked(handler.unary_unary, details)
        elif name in _PUBLIC:
            return await continuation(details)
        else:  # loading and unloading models, among others
            handler = await continuation(details)
            checked = _unknown
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(checked, handler.request_deserializer, handler.response_serializer)

    def _checked(self, infer: Any, details: grpc.HandlerCallDetails) -> Any:
        async def handle(request: Any, context: aio.ServicerContext) -> Any:
            headers = [(key.encode(), _bytes(value)) for key, value in details.invocation_metadata]
            if not self._gateway.authentication.admits(headers):
                metrics.REFUSED.labels("401").inc()
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, self._gateway.authentication.hint)
            if reason := self._gateway.health.waiting_for:
                metrics.REFUSED.labels("503").inc()
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"no decisions yet: {reason}")
            try:
                async with self._gateway.decisions.admit():
                    return await infer(request, context)
            except Saturated as error:
                metrics.REFUSED.labels("429").inc()
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"saturated: {error}; come again later")
            except ModelNotFound as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except _CALLERS_MISTAKES as error:
                text = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)

        return handle


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

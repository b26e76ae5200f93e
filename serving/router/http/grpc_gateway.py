"""Applies the gateway's rules to gRPC; authentication reads the call's metadata.

401 is UNAUTHENTICATED, 409 ALREADY_EXISTS, 503 UNAVAILABLE, and 413, 429 and 431 are RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from grpc import StatusCode

from serving.grpc_v2 import GrpcServer, Headers, Refused
from serving.router.flow.admission import Saturated
from serving.router.flow.idempotency_cache import RequestConflict
from serving.router.http.gateway import Gateway
from serving.router.ops import metrics, tracing


def grpc_server(server: Any, gateway: Gateway, host: str, port: int) -> GrpcServer:
    """The router's gRPC server, for the models of KServe's `server`; port 0 takes a free one."""

    @contextlib.asynccontextmanager
    async def rules(headers: Headers) -> AsyncIterator[None]:
        if not gateway.authentication.admits(headers):
            metrics.REFUSED.labels("401").inc()
            raise Refused(StatusCode.UNAUTHENTICATED, f"not authenticated: {gateway.authentication.hint}")
        if reason := gateway.health.waiting_for:
            metrics.REFUSED.labels("503").inc()
            raise Refused(StatusCode.UNAVAILABLE, f"no decisions yet: {reason}")
        try:
            with tracing.request("decide", headers):
                async with gateway.decisions.admit():
                    yield
        except Saturated as error:
            metrics.REFUSED.labels("429").inc()
            raise Refused(StatusCode.RESOURCE_EXHAUSTED, f"saturated: {error}; come again later") from None
        except RequestConflict as error:
            raise Refused(StatusCode.ALREADY_EXISTS, str(error)) from None

    return GrpcServer(server, host, port, gateway.max_body_bytes, rules)

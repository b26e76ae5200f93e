"""The predictor's server: HTTP, and gRPC if it is asked for."""

from __future__ import annotations

import contextlib
import logging

from serving.grpc_v2 import GrpcServer
from serving.kserve_sdk import Server

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10
_LARGEST_MESSAGE = 4 << 20  # bytes; gRPC's own default, and 16 KiB for each of the most items that a request may hold


class PredictorServer(Server):
    """Serves models until SIGTERM or SIGINT, and then finishes what is in flight.

    Args:
        host: Address to listen on; with a slash, the path of a Unix socket.
        port: Port of HTTP; 0 takes a free one.
        grpc_port: Port of gRPC; 0 takes a free one, None: HTTP alone.
    """

    def __init__(self, host: str, port: int, grpc_port: int | None = None) -> None:
        super().__init__(host, port, _GRACE_SECONDS)
        self._grpc_port = grpc_port

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._grpc_port is not None:
                grpc = GrpcServer(self, self._host, self._grpc_port, _LARGEST_MESSAGE)
                await stack.enter_async_context(grpc)
                log.info("predictor speaks gRPC on port %d", grpc.port)
            await super()._serve()

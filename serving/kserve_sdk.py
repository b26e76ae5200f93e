"""The parts of the KServe SDK that the router and the predictor use.

kserve reads the command line of whatever process imports it (and takes abbreviations: `--model x` would set its
`--model_name`). It gets an empty one here; no other module of ours imports kserve.
"""

from __future__ import annotations

import copy
import logging
import struct
import sys
import warnings

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serving.throttle import OncePerSecond

_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound
    from kserve.logging import KSERVE_LOG_CONFIG, configure_logging
    from kserve.model_server import app
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
        add_GRPCInferenceServiceServicer_to_server as add_inference_service,
    )
    from kserve.protocol.grpc.servicer import InferenceServicer
finally:
    sys.argv = _argv

__all__ = [
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InferenceServicer",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "Server",
    "add_inference_service",
    "app",
    "correct",
    "quiet",
]

log = logging.getLogger(__name__)
log.addFilter(OncePerSecond())

# What KServe raises while it decodes a request that is none. Faults of ours never get out as any of these.
_DECODING = (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error)


class Server(ModelServer):
    """KServe's server, of HTTP alone, on an address of our choice.

    Args:
        host: Address to listen on.
        port: Of HTTP; 0 for any that is free.
        grace_seconds: For what is in flight when it has to end.
    """

    def __init__(self, host: str, port: int, grace_seconds: int) -> None:
        super().__init__(http_port=port, enable_grpc=False, enable_latency_logging=False, grace_period=grace_seconds)
        self._host = host

    async def _serve(self) -> None:
        self._rest_server.config.host = self._host  # KServe has no option for it
        # Its one middleware times every request for a log that `quiet` turns off.
        self._rest_server._add_middlewares = lambda application: None
        await super()._serve()


def correct(application: FastAPI) -> None:
    """Mend KServe's application; once a process, before KServe adds its own routes."""
    # KServe would let anybody unload the model, and not load it again.
    application.add_api_route("/v2/repository/{path:path}", _no_repository, methods=["GET", "POST"])
    for error in _DECODING:
        application.add_exception_handler(error, _not_decoded)


async def _no_repository() -> JSONResponse:
    return JSONResponse({"error": "models can't be loaded or unloaded here"}, 404)


async def _not_decoded(_: Request, error: Exception) -> JSONResponse:
    log.warning("a request can't be decoded", exc_info=error)
    return JSONResponse({"error": f"the request can't be decoded: {type(error).__name__}: {error}"}, 400)


def _is_clients_fault(record: logging.LogRecord) -> bool:
    return isinstance((record.exc_info or (None, None))[1], InvalidInput | ModelNotFound)


def quiet() -> None:
    """Log warnings and errors only; by default KServe and uvicorn write five lines a request."""
    config = copy.deepcopy(KSERVE_LOG_CONFIG)
    for logger in config["loggers"].values():
        logger["level"] = "WARNING"
    configure_logging(config)
    # It also logs a client's mistake as an error, with a traceback.
    logging.getLogger("kserve").addFilter(lambda record: not _is_clients_fault(record))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated.*")

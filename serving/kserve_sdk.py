"""The parts of the KServe SDK that the router and the predictor use. No other module may import kserve.

The import hides sys.argv, because kserve would parse the command line.
"""

import logging
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mtorl.runtime.message import Message
from mtorl.runtime.validation import location
from serving import logs, messages
from serving.connection_limits import NO_SHEDDING, Limits, Shedding, limited

_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelRepository  # noqa: F401
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest import v2_datamodels  # noqa: F401
    from kserve.protocol.rest.server import RESTServer
finally:
    sys.argv = _argv

log = logging.getLogger(__name__)

_STATUSES = {InvalidInput: 400, ModelNotFound: 404, NotImplementedError: 501, ModelNotReady: 503, InferenceError: 500}
# KServe raises these errors for a malformed request.
DECODING = (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error)


def application(models: Iterable[Model]) -> FastAPI:
    """Build the ASGI application with KServe's routes: protocols v1 and v2 of the models, and metrics."""
    repository = ModelRepository()
    for model in models:
        repository.update(model)
    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    # KServe's own routes let any caller unload the model for good.
    made.add_api_route("/v2/repository/{path:path}", _no_repository, methods=["GET", "POST"])
    # KServe's timing middleware would write a log that `quiet` turns off.
    rest = RESTServer("", DataPlane(repository), ModelRepositoryExtension(repository), 0)
    rest._register_endpoints(made)
    rest._add_exception_handlers(made)
    for error in DECODING:
        made.add_exception_handler(error, _not_decoded)
    made.add_exception_handler(RequestValidationError, _not_valid)
    made.add_exception_handler(HTTPException, _no_such_address)
    for kind, status in _STATUSES.items():
        made.add_exception_handler(kind, partial(_of_kserve, status))
    return made


async def _no_repository() -> None:
    raise HTTPException(404, "models can't be loaded or unloaded")


async def _not_decoded(_: Request, error: Exception) -> JSONResponse:
    message = messages.INVALID(fault=f"the request can't be decoded: {type(error).__name__}: {error}")
    log.warning("400, %s", message, extra={"cause": type(error).__name__})
    return JSONResponse(message.body, 400)


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    return JSONResponse(messages.INVALID(fault=f"{location(fault['loc'])}: {fault['msg']}").body, 400)


async def _no_such_address(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = messages.NO_ROUTE(method=request.method, path=request.url.path, detail=error.detail)
    return JSONResponse(message.body, error.status_code, error.headers)


async def _of_kserve(status: int, request: Request, error: Exception) -> JSONResponse:
    if status in (404, 501):
        return JSONResponse(messages.NO_ROUTE(method=request.method, path=request.url.path, detail=error).body, status)
    words, reason = messages.INVALID if status == 400 else messages.MODEL_FAILED, getattr(error, "reason", None)
    # The predictor's own refusals are messages.
    return JSONResponse((reason if isinstance(reason, Message) else words(fault=error)).body, status)


class CannotListen(OSError):
    """Raised if the server can't use its address or port."""


class Server(uvicorn.Server):
    """A server that runs an ASGI application until SIGINT or SIGTERM, with limits on each connection.

    Args:
        host: Address to listen on, or the path of a Unix socket if it contains a slash.
        port: TCP port; 0 selects a free port.
        refused: Called with the HTTP status if a request is refused before the application sees it.
    """

    def __init__(
        self,
        application: Any,
        host: str,
        port: int,
        grace_seconds: int,
        refused: Callable[[int], None] = lambda _: None,
        shedding: Shedding = NO_SHEDDING,
    ) -> None:
        self._address = host, port
        super().__init__(
            uvicorn.Config(
                application,
                uds=host if "/" in host else None,
                loop="uvloop",
                http=limited(Limits(), refused, shedding),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                proxy_headers=False,  # no code here uses the caller's address
                # Longer than the timeout of proxies, so that they close idle connections first.
                timeout_keep_alive=65,
                timeout_graceful_shutdown=grace_seconds,
            )
        )

    def serve_until_stopped(self) -> None:
        """Serve until a signal stops the server; raises CannotListen."""
        host, port = self._address
        self.run(None if self.config.uds else [_socket_on(host, port)])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, and answer the requests in flight."""
        # uvicorn's own handler would raise the signal again.
        self.should_exit = True


def _socket_on(host: str, port: int) -> socket.socket:
    """Bind a socket to a host, on IPv4 if possible; port 0 selects a free port."""
    found = None
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = min(addresses, key=lambda one: one[0] != socket.AF_INET)
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        return found
    except OSError as error:
        if found is not None:
            found.close()
        raise CannotListen(f"can't listen on {host}:{port}: {error.strerror or error}") from None


def quiet() -> None:
    """Set up the log, in which KServe and uvicorn log only faults."""
    logs.set_up()
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    # KServe logs invalid requests as errors with a traceback.
    mistakes = InvalidInput, ModelNotFound, NotImplementedError
    logging.getLogger("kserve").addFilter(lambda record: not isinstance((record.exc_info or (None,) * 2)[1], mistakes))
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about invalid requests as well
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated.*")

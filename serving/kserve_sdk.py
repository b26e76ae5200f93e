"""The parts of the KServe SDK that the router and the predictor use.

kserve parses the command line of the process that imports it, abbreviations included: `--model x` would set its
`--model_name`. Here it gets an empty one, which is why no other module imports kserve.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvloop
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serving import logs
from serving.connection_limits import NO_SHEDDING, Limits, Shedding, limited

_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: F401
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound  # noqa: F401
    from kserve.model_server import app  # noqa: F401
    from kserve.protocol.rest import v2_datamodels  # noqa: F401
finally:
    sys.argv = _argv

log = logging.getLogger(__name__)

# KServe raises these while it decodes a malformed request. No fault of the router leaves it as one of them.
_DECODING = (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error)


class CannotListen(OSError):
    """Another process has the port, or the address is none of this machine's."""


class Server(ModelServer):
    """KServe's server for HTTP alone, on an address of choice, with limits to the cost of a connection.

    Args:
        host: Address to listen on; with a slash, the path of a Unix socket.
        port: Port of HTTP; 0 takes a free one.
        refused: Called with the status of each request that is refused before an application sees it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        grace_seconds: int,
        refused: Callable[[int], None] = lambda _: None,
        shedding: Shedding = NO_SHEDDING,
    ) -> None:
        super().__init__(http_port=port, enable_grpc=False, enable_latency_logging=False, grace_period=grace_seconds)
        self._host = host
        self._protocol = limited(Limits(), refused, shedding)

    def start(self, models: Any) -> None:
        """Serve models until SIGINT or SIGTERM; or CannotListen."""
        try:
            super().start(models)
        except CannotListen:
            for never_begun in self.servers:
                never_begun.close()
            raise

    def setup_event_loop(self) -> None:
        """Run on uvloop: KServe runs asyncio's own loop whatever its event_loop option says, which takes more CPU."""
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(asyncio.new_event_loop())
        super().setup_event_loop()

    def register_signal_handler(self) -> None:
        """Stop at SIGINT or SIGTERM."""
        # KServe's handler does nothing useful before uvicorn listens.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Take no more requests, and end when those in flight are answered."""
        uvicorn = self._rest_server._server
        type(uvicorn).handle_exit(uvicorn, number, frame)

    async def _serve(self) -> None:
        self._rest_server._server.handle_exit = self._stop  # uvicorn has handlers of its own while it serves
        config = self._rest_server.config  # KServe has no options for these
        config.host, config.uds = (self._host, None) if "/" not in self._host else ("", self._host)
        config.http = self._protocol
        config.ws = "none"
        config.proxy_headers = False  # nobody asks which address a request came from
        # Its one middleware times every request for a log that `quiet` turns off.
        self._rest_server._add_middlewares = lambda application: None
        if "/" not in self._host:
            server = self._rest_server._server
            server.serve = partial(server.serve, [_socket_on(self._host, self.http_port)])
        await super()._serve()


def _socket_on(host: str, port: int) -> socket.socket:
    """A socket on a port, 0 for a free one; on an IPv4 address of the host if it has one."""
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


def correct(application: FastAPI) -> None:
    """Correct KServe's application; once a process, before KServe adds its own routes."""
    # KServe would let anybody unload the model, and has no way to load it again.
    application.add_api_route("/v2/repository/{path:path}", _no_repository, methods=["GET", "POST"])
    for error in _DECODING:
        application.add_exception_handler(error, _not_decoded)


async def _no_repository() -> JSONResponse:
    return JSONResponse({"error": "models can't be loaded or unloaded here"}, 404)


async def _not_decoded(_: Request, error: Exception) -> JSONResponse:
    text = f"the request can't be decoded: {type(error).__name__}: {error}"
    log.warning("400, %s", text, extra={"cause": type(error).__name__})
    return JSONResponse({"error": text}, 400)


def values_of(tensor: InferInput) -> Any:
    """The values of a request's tensor in any of its forms, usually a list; bytes as UTF-8 texts, or InvalidInput."""
    # A tensor that came as bytes beside the message is in the array alone.
    data = tensor.data or tensor.as_numpy().ravel().tolist()
    return [_decoded(tensor.name, value) for value in data] if isinstance(data, list) else data


def _decoded(name: str, value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input {name}: not UTF-8 text") from None


def _is_callers_mistake(record: logging.LogRecord) -> bool:
    return isinstance((record.exc_info or (None, None))[1], InvalidInput | ModelNotFound | NotImplementedError)


def quiet() -> None:
    """Log as `logs.py` does, of KServe and uvicorn faults only: by default they write five lines a request."""
    logs.set_up()
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    # KServe also logs a caller's mistake as an error, with a traceback.
    logging.getLogger("kserve").addFilter(lambda record: not _is_callers_mistake(record))
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are callers' mistakes as well
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated.*")

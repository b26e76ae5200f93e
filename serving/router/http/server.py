"""The process: KServe's ModelServer around the router, from the first probe to the drained end.

It listens at once, since the router may wait for minutes (a slow volume) or for ever (a missing feature
registry), and the probes must tell that from a process that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import threading
import time
from types import FrameType

from serving.connection_limits import Shedding
from serving.kserve_sdk import Server, app
from serving.router.http.app import RouterModel, install
from serving.router.http.auth import authentication
from serving.router.http.gateway import Gateway
from serving.router.ops import metrics
from serving.router.ops.settings import RouterSettings
from serving.router.router import Router

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10  # for requests in flight, and for what the router has to do after them ...
_LAST_SECONDS = 4.0  # ... which has as long in any case
_LEFT_UNDONE = 4  # exit code


def serve(settings: RouterSettings) -> None:
    """Serve until SIGTERM or SIGINT; then finish requests in flight, flush the log and return.

    If a store that hangs leaves work undone by the end of the grace time, the process ends with exit code 4.
    """
    allowed = authentication(settings.auth)
    router = Router(settings)
    gateway = Gateway(allowed, settings.max_body_bytes, router)
    app.state.router, app.state.gateway = router, gateway
    install(app, settings.model_name)
    model = RouterModel(settings.model_name, router)
    _Server(settings, router, gateway, model).start([model])


class _Server(Server):
    def __init__(self, settings: RouterSettings, router: Router, gateway: Gateway, model: RouterModel) -> None:
        super().__init__(
            settings.host,
            settings.port,
            _GRACE_SECONDS,
            lambda status: metrics.REFUSED.labels(str(status)).inc(),
            Shedding(gateway.sheds, gateway.decisions.refusal_seconds),
        )
        self._router = router
        self._model = model
        self._until = math.inf  # monotonic clock: when the grace time is over

    async def _serve(self) -> None:
        self._model.ready = False
        async with contextlib.AsyncExitStack() as stack:
            opening = asyncio.create_task(self._open(stack))
            await super()._serve()
            if not self._router.health.started:
                if opening.done():
                    opening.result()  # raises what is wrong
                # Nothing was decided; Python would wait for the thread that reads the log.
                os._exit(0)
            _end_in_time(self._router, max(_LAST_SECONDS, self._until - time.monotonic()))

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        try:
            url = await self._listening()
            await stack.enter_async_context(self._router)
        except BaseException:
            self._rest_server._server.should_exit = True
            raise
        # A full collection of the objects that imports made takes 100 ms: longer than a deadline.
        gc.collect()
        gc.freeze()
        self._model.ready = True
        log.info("router ready %s", url)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._router.health.draining = True
        self._until = min(self._until, time.monotonic() + _GRACE_SECONDS)
        super()._stop(number, frame)

    async def _listening(self) -> str:
        """Wait until the port is open; returns the URL."""
        http = self._rest_server._server
        while not http.started:
            await asyncio.sleep(0.01)
        port = http.servers[0].sockets[0].getsockname()[1]
        host = "127.0.0.1" if self._host == "0.0.0.0" else self._host
        log.info("router listens http://%s:%d", host, port)
        return f"http://{host}:{port}"


def _end_in_time(router: Router, seconds: float) -> None:
    """End the process after some seconds: Python waits for its threads, and one in a store may hang for ever."""

    def end() -> None:
        time.sleep(seconds)
        code = _LEFT_UNDONE
        try:
            if left := router.undone():
                log.critical("the router ends, and a store that hangs leaves undone: %s", "; ".join(left))
            else:
                log.warning("all is done, and the router ends without its threads that hang")
                code = 0
        finally:
            os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()

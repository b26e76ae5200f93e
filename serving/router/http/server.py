"""Runs the router's process.

The start may take minutes, so the process answers health probes before the router is ready.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
import threading
import time
from types import FrameType

from serving.connection_limits import Shedding
from serving.kserve_sdk import Server
from serving.router.http.gateway import Gateway
from serving.router.ops import metrics
from serving.router.ops.settings import RouterSettings
from serving.router.router import Router

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10  # for requests in flight and the router's own shutdown
_LAST_SECONDS = 4.0  # the router's own shutdown always has this long
_LEFT_UNDONE = 4  # exit code if work is left for the next start


def serve(settings: RouterSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight, flush the log and return.

    If a database or disk hangs, so that work is left undone, the process exits with code 4.
    """
    router = Router(settings)
    _RouterServer(settings, router, Gateway(router, settings)).serve_until_stopped()


class _RouterServer(Server):
    def __init__(self, settings: RouterSettings, router: Router, gateway: Gateway) -> None:
        super().__init__(
            gateway,
            settings.host,
            settings.port,
            _GRACE_SECONDS,
            lambda status: metrics.REFUSED.labels(str(status)).inc(),
            Shedding(gateway.sheds, gateway.decisions.refusal_seconds),
        )
        self._router = router
        self._until = math.inf  # monotonic time at which the grace time ends
        self._stack = contextlib.AsyncExitStack()

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._stack:
            await super()._serve(sockets)
            if not self._router.health.started:
                if self._opening.done():
                    self._opening.result()  # if the start failed, raises its error
                # A normal exit would wait for the thread that reads the log.
                os._exit(0)
            _end_in_time(self._router, max(_LAST_SECONDS, self._until - time.monotonic()))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and open the router in the background."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        log.info("router listens %s", url)
        self._opening = asyncio.create_task(self._open(url))

    async def _open(self, url: str) -> None:
        try:
            await self._stack.enter_async_context(self._router)
        except BaseException:
            self.should_exit = True
            raise
        # A full garbage collection of imported objects would take 100 ms.
        gc.collect()
        gc.freeze()
        log.info("router ready %s", url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._router.health.draining = True
        self._until = min(self._until, time.monotonic() + _GRACE_SECONDS)
        super().handle_exit(sig, frame)


def _end_in_time(router: Router, seconds: float) -> None:
    """Exit after some seconds, because Python would wait forever for a thread that hangs."""

    def end() -> None:
        code = _LEFT_UNDONE
        try:
            if left := router.undone():
                log.critical("the router exits although a store hangs, and leaves: %s", "; ".join(left))
            else:
                log.warning("all work is done, and the router exits without waiting for threads that hang")
                code = 0
        finally:
            os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()

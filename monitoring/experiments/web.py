"""Serves the web page of experiments, on a laptop and in the operator.

The server has no login, so it must listen only on localhost or behind an authenticating proxy.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address

from aiohttp import web

from monitoring.experiments.document import View
from monitoring.experiments.gauges import exposition
from monitoring.experiments.page import page

# Seconds after which an open page reloads its figures.
_REFRESH = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "mtorl",
}
_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Raised if the page can't be shown now."""


def site(
    views: Callable[[], Sequence[View]], host: str, leads: Callable[[], bool] | None = None, stops: bool = False
) -> web.Application:
    """Build the web application with the paths `/`, `/experiments.json` and `/metrics`.

    Args:
        views: Function that returns the documents without reading a log. It may raise `Unavailable`.
        host: Address of the server. On a loopback address, requests to other host names are refused.
        leads: Function that returns whether this operator is the leader. Only the leader exports gauges.
        stops: Whether the page has kill switches. The caller must then add the route `stop/NAME`.
    """
    # Rendering in a separate thread keeps the server responsive.
    pages = ThreadPoolExecutor(1, "pages")

    def gauges() -> bytes:
        leading = None if leads is None else leads()
        return exposition([] if leading is False else views(), leading)

    async def answer(request: web.Request) -> web.Response:
        make, kind = content[request.path]
        try:
            body = await asyncio.get_running_loop().run_in_executor(pages, make)
        except Unavailable as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None
        except Exception as error:  # a bug in this program
            _log.exception("a page can't be rendered")
            words = f"This page can't be rendered: {type(error).__name__}. The server's log has the details.\n"
            raise web.HTTPInternalServerError(text=words) from None
        return web.Response(body=body, headers={"Content-Type": kind})

    content: dict[str, tuple[Callable[[], str | bytes], str]] = {
        "/": (lambda: page(views(), refresh=_REFRESH, stops=stops), "text/html; charset=utf-8"),
        "/experiments.json": (lambda: json.dumps(list(views())), "application/json"),
        "/metrics": (gauges, "text/plain; version=0.0.4; charset=utf-8"),
    }
    app = web.Application(middlewares=[_own_name_alone] if _is_local(host) else [])
    app.on_response_prepare.append(_add_headers)
    for path in content:
        app.router.add_get(path, answer)
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@web.middleware
async def _own_name_alone(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse requests whose `Host` header names another host, to prevent DNS rebinding."""
    if not _is_local(_host_of(request.headers.get("Host", ""))):
        raise web.HTTPForbidden(text="not under this name\n")
    return await handler(request)


@contextmanager
def serving(app: web.Application, host: str, port: int) -> Iterator[str]:
    """Serve an application in a thread, and yield its URL. Port 0 selects a free port.

    Raises OSError if the port is in use.
    """
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever, daemon=True, name="http")
    thread.start()
    try:
        bound = asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _host_of(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

"""The feed over HTTP: CloudEvents, as the routers' shippers or a broker between them send them.

One event in a request (binary or structured), or a JSON batch. The answer is 204 once the events are stored durably,
400 if they can never be taken, and 503 if they have to be sent again.
"""

import asyncio
import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from features.online.feed import Event, EventError, Feed

_MOST_BYTES = 8 * 1024 * 1024

log = logging.getLogger(__name__)


def application(feed: Feed) -> web.Application:
    """The web application: POST / takes events, GET /health says that it runs, GET /metrics how full the store is."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="feed")  # one at a time, off the event loop

    async def take(request: web.Request) -> web.Response:
        try:
            events = _events(request, await request.read())
            await asyncio.get_running_loop().run_in_executor(thread, feed.take, events)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # EventError, HistoryError, and what else bad data can cause. The sender must not repeat such an event for
            # ever: it would hold up all that the router ships after it.
            log.warning("refused: %s: %s", type(error).__name__, error)
            return web.json_response({"error": str(error)}, status=400)
        except web.HTTPException:
            raise
        except Exception as error:
            log.exception("not taken")
            answer = {"error": f"{type(error).__name__}: send it again"}
            return web.json_response(answer, status=503, headers={"Retry-After": "1"})
        return web.Response(status=204)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def metrics(_: web.Request) -> web.Response:
        memory = await asyncio.get_running_loop().run_in_executor(thread, feed.memory)
        names = ("mtorl_online_store_used_bytes", "mtorl_online_store_limit_bytes")
        lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in zip(names, memory or (), strict=False)]
        return web.Response(text="".join(lines))

    app = web.Application(client_max_size=_MOST_BYTES)
    app.add_routes([web.post("/", take), web.get("/health", health), web.get("/metrics", metrics)])
    return app


def serve(feed: Feed, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests that have begun."""
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    print(f"feed ready http://{host}:{listening.getsockname()[1]}", flush=True)
    web.run_app(application(feed), sock=listening, print=None, access_log=None)


def _events(request: web.Request, body: bytes) -> list[Event]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise EventError(f"the body is not JSON: {error}") from None
    match request.content_type:
        case "application/cloudevents-batch+json" if isinstance(content, list):
            events = content
        case "application/cloudevents+json":
            events = [content]
        case _ if "ce-type" in request.headers:
            events = [{"type": request.headers["ce-type"], "data": content}]
        case _:
            raise EventError("expected a CloudEvent: headers ce-*, or application/cloudevents+json, or a batch of them")
    if not all(isinstance(event, dict) and isinstance(event.get("type"), str) for event in events):
        raise EventError("a CloudEvent has a type")
    return [(event["type"], event.get("data")) for event in events]

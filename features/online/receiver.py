"""Receives events over HTTP, as CloudEvents from the routers or from a broker, and passes them to the feed.

The response is 204 once the events are stored durably, 400 if an event is invalid, and 503 if the sender has to send
the events again.
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
    """Return the web application, which stores events from POST / and serves /health and /metrics."""
    # Handle one request at a time, in a thread, so that the event loop is not blocked.
    thread = ThreadPoolExecutor(1, thread_name_prefix="feed")

    async def take(request: web.Request) -> web.Response:
        try:
            events = _events(request, await request.read())
            await asyncio.get_running_loop().run_in_executor(thread, feed.take, events)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # These errors come from invalid data. Retries would never succeed, and would block the router's later
            # events.
            log.warning("refused: %s: %s", type(error).__name__, error)
            return web.json_response({"error": str(error)}, status=400)
        except web.HTTPException:
            raise
        except Exception as error:
            log.exception("not taken")
            answer = {"error": f"{type(error).__name__}: send the events again"}
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
    """Serve requests until SIGTERM or SIGINT, then finish the requests in progress and return."""
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
            raise EventError("expected a CloudEvent: headers ce-*, application/cloudevents+json, or a batch of events")
    if not all(isinstance(event, dict) and isinstance(event.get("type"), str) for event in events):
        raise EventError("a CloudEvent must have a type")
    return [(event["type"], event.get("data")) for event in events]

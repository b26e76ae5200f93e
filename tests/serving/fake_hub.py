"""Kubeflow's model registry in memory: the part of its REST API that a registration takes.

As its OpenAPI document (api/openapi/model-registry.yaml of kubeflow/model-registry) has it: registered models, their
versions, artifacts of these, and the three look-ups by name, under whichever version of the API the client calls. What
it does not know, it answers with 404, and a name that is taken with 409.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

BASE = "/api/model_registry/"


class Hub:
    """The registry's content.

    Attributes:
        models: Registered models by id, likewise the versions and the artifacts.
        asked: Method and path of each request, and its Authorization header.
        dies_at: Number of the request from which on it answers with 503; None: never.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.dies_at: int | None = None
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        parts = path.removeprefix(BASE).split("/")[1:]  # without the API's version
        if method == "GET":
            return self._found(parts, query)
        if parts == ["registered_models"]:
            return self._add(self.models, body)
        if len(parts) == 1 and parts[0] == "model_versions":
            return self._add(self.versions, body, "registeredModelId")
        if len(parts) == 3 and parts[0] == "registered_models" and parts[2] == "versions":
            return self._add(self.versions, {**body, "registeredModelId": parts[1]}, "registeredModelId")
        if len(parts) == 3 and parts[0] == "model_versions" and parts[2] == "artifacts":
            return self._add(self.artifacts, {**body, "modelVersionId": parts[1]}, "modelVersionId")
        return 404, {"code": "404", "message": f"{method} {path}"}

    def _found(self, parts: list[str], query: dict[str, str]) -> tuple[int, Any]:
        if parts == ["registered_models"]:
            return 200, _listed(list(self.models.values()))
        where = {
            "registered_model": (self.models, None),
            "model_version": (self.versions, "registeredModelId"),
            "model_artifact": (self.artifacts, "modelVersionId"),
        }
        if len(parts) != 1 or parts[0] not in where:
            return 404, {"code": "404", "message": "/".join(parts)}
        things, parent = where[parts[0]]
        for thing in things.values():
            same = "parentResourceId" not in query or thing.get(parent or "") == query["parentResourceId"]
            if thing["name"] == query.get("name") and same:
                return 200, thing
        return 404, {"code": "404", "message": f"no {parts[0]} found for {query}"}

    def _add(self, things: dict[str, Any], body: dict[str, Any], parent: str = "") -> tuple[int, Any]:
        of = body.get(parent)
        if any(thing["name"] == body["name"] and thing.get(parent) == of for thing in things.values()):
            return 409, {"code": "409", "message": f"{body['name']} is there already"}
        number = str(len(self.models) + len(self.versions) + len(self.artifacts) + 1)
        things[number] = {**body, "id": number, "createTimeSinceEpoch": "0", "lastUpdateTimeSinceEpoch": "0"}
        return 201, things[number]


def _listed(items: list[Any]) -> dict[str, Any]:
    return {"items": items, "nextPageToken": "", "pageSize": len(items), "size": len(items)}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers on this machine."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self, method: str) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            hub.asked.append((method, parts.path, self.headers.get("Authorization")))
            if hub.dies_at is not None and len(hub.asked) >= hub.dies_at:
                status, content = 503, {"code": "503", "message": "away"}
            else:
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, content = hub.answer(method, parts.path, query, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.handle_one("GET")

        def do_POST(self) -> None:
            self.handle_one("POST")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

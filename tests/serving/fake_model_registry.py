"""A Kubeflow Model Registry in memory: the part of its REST API that a registration uses.

It follows api/openapi/model-registry.yaml of kubeflow/model-registry: registered models, their versions, artifacts of
these, and look-ups by name, under any version of the API. Other paths get 404, and a name that is taken gets 409.
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


class ModelRegistry:
    """Its content.

    Attributes:
        models: Registered models by id, likewise versions and artifacts.
        authorizations: The Authorization header of each request.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.authorizations: list[str | None] = []
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        match path.removeprefix(BASE).split("/")[1:]:  # without the API's version
            case [kind] if method == "GET":
                return self._found(kind, query)
            case ["registered_models"]:
                return self._add(self.models, body)
            case ["model_versions"]:
                return self._add(self.versions, body, "registeredModelId")
            case ["registered_models", of, "versions"]:
                return self._add(self.versions, {**body, "registeredModelId": of}, "registeredModelId")
            case ["model_versions", of, "artifacts"]:
                return self._add(self.artifacts, {**body, "modelVersionId": of}, "modelVersionId")
        return 404, {"code": "404", "message": f"{method} {path}"}

    def _found(self, kind: str, query: dict[str, str]) -> tuple[int, Any]:
        if kind == "registered_models":
            items = list(self.models.values())
            return 200, {"items": items, "nextPageToken": "", "pageSize": len(items), "size": len(items)}
        things, parent = {
            "registered_model": (self.models, ""),
            "model_version": (self.versions, "registeredModelId"),
            "model_artifact": (self.artifacts, "modelVersionId"),
        }[kind]
        for thing in things.values():
            same = "parentResourceId" not in query or thing.get(parent) == query["parentResourceId"]
            if thing["name"] == query.get("name") and same:
                return 200, thing
        return 404, {"code": "404", "message": f"no {kind} found for {query}"}

    def _add(self, things: dict[str, Any], body: dict[str, Any], parent: str = "") -> tuple[int, Any]:
        of = body.get(parent)
        if any(thing["name"] == body["name"] and thing.get(parent) == of for thing in things.values()):
            return 409, {"code": "409", "message": f"{body['name']} is there already"}
        number = str(len(self.models) + len(self.versions) + len(self.artifacts) + 1)
        things[number] = {**body, "id": number, "createTimeSinceEpoch": "0", "lastUpdateTimeSinceEpoch": "0"}
        return 201, things[number]


@contextmanager
def serving() -> Iterator[ModelRegistry]:
    """A registry that answers on this machine."""
    registry = ModelRegistry()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            registry.authorizations.append(self.headers.get("Authorization"))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, content = registry.answer(self.command, parts.path, query, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()

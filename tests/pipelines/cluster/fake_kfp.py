"""An in-memory Kubeflow Pipelines server for the SDK's client."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from monitoring.experiments.web import serving

Answer = tuple[int, dict[str, Any]]


class FakeKfp:
    """A fake KFP server with the pipelines, versions and recurring runs of one namespace.

    Attributes:
        health: Body of the health endpoint's answer.
        changes: Requests that changed something, as "METHOD PATH" without ids.
        refuse_after: Number of changes after which the server refuses further changes. None means never, and -1 refuses
            all requests.
        refusal: HTTP status and message of a refused request.
        recurring: Recurring runs by id, oldest first.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.health: Any = {"multi_user": True}
        self.changes: list[str] = []
        self.refuse_after: int | None = None
        self.refusal: Answer = (503, {"message": "no healthy upstream"})
        self.recurring: dict[str, dict[str, Any]] = {}
        self._pipelines: dict[str, list[dict[str, str]]] = {}  # pipeline name -> its versions
        self._experiments: list[dict[str, str]] = []

    def on(self) -> list[str]:
        return [one["display_name"] for one in self.recurring.values() if one["status"] == "ENABLED"]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        if self.refuse_after == -1 and path != "healthz":
            return self.refusal
        if method != "GET":
            if self.refuse_after is not None and len(self.changes) >= self.refuse_after:
                return self.refusal
            self.changes.append(f"{method} {path.split('/')[0]}")
        match [method, *path.split("/")]:
            case ["GET", "healthz"]:
                return 200, self.health
            case ["GET", "pipelines"]:
                assert query["namespace"] == "mtorl"
                name = _wanted(query)
                return 200, {"pipelines": [{"pipeline_id": name}] if name in self._pipelines else []}
            case ["POST", "pipelines"]:
                assert body["namespace"] == "mtorl"
                self._pipelines[body["display_name"]] = []
                return 200, {"pipeline_id": body["display_name"]}
            case ["GET", "pipelines", name, "versions"]:
                found = [one for one in self._pipelines[name] if one["display_name"] == _wanted(query)]
                return 200, {"pipeline_versions": found}
            case ["POST", "pipelines", "upload_version"]:
                made = {"display_name": query["name"], "pipeline_version_id": f"id-{query['name']}"}
                self._pipelines[query["pipelineid"]].append(made)
                return 200, made
            case ["GET", "experiments"]:
                return 200, {"experiments": self._experiments}
            case ["POST", "experiments"]:
                self._experiments.append({**body, "experiment_id": "group"})
                return 200, self._experiments[-1]
            case ["GET", "recurringruns"]:  # one recurring run per page
                assert query["namespace"] == "mtorl" and query["sort_by"] == "created_at"
                there, first = list(self.recurring.values()), int(query.get("page_token") or 0)
                more = str(first + 1) if first + 1 < len(there) else ""
                return 200, {"recurringRuns": there[first : first + 1], "next_page_token": more}
            case ["POST", "recurringruns"]:
                made = {**body, "recurring_run_id": f"r{len(self.changes)}", "status": f"{body['mode']}D"}
                self.recurring[made["recurring_run_id"]] = made
                return 200, made
            case ["DELETE", "recurringruns", name]:
                assert query["propagation_policy"] == "ORPHAN", "Kubernetes would delete runs in progress"
                del self.recurring[name]
                return 200, {}
            case ["POST", "recurringruns", turned]:
                name, turn = turned.split(":")
                self.recurring[name]["status"] = f"{turn.upper()}D"
                return 200, {}
        raise AssertionError(f"{method} {path}")


def _wanted(query: dict[str, str]) -> str:
    (predicate,) = json.loads(query["filter"])["predicates"]
    assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
    return str(predicate["stringValue"])


@contextmanager
def fake_kfp() -> Iterator[FakeKfp]:
    kfp = FakeKfp("")

    async def answer(request: web.Request) -> web.Response:
        body = await request.json() if request.content_type == "application/json" and request.can_read_body else None
        status, said = kfp.answer(request.method, request.match_info["path"], dict(request.query), body)
        return web.Response(text=said if isinstance(said, str) else json.dumps(said), status=status)

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/apis/v2beta1/{path:.*}", answer)
    with serving(app, "127.0.0.1", 0) as url:
        kfp.endpoint = url.rstrip("/")
        yield kfp

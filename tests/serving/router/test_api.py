"""The router does what its OpenAPI document says: asked by schemathesis, and each status that it promises is real."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.serving.router_fixtures import CONTEXT, Harness, instance, with_router
from tests.serving.router_process import Process

TOKEN = "0123456789abcdef-token"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
READERS = 256  # bodies that may arrive at once
Operation = tuple[str, str]
"""Method and path."""


@contextlib.contextmanager
def router(feast_repo: Path, folder: Path, **settings: Any) -> Iterator[Process]:
    folder.mkdir(exist_ok=True)
    if not (folder / "features").exists():
        (folder / "features").symlink_to(feast_repo)
    (folder / "token.txt").write_text(TOKEN)
    with Process(folder, auth={"kind": "token", "file": "token.txt"}, **settings) as process:
        yield process


@with_router()
async def test_the_document_is_that_of_the_routers_data_set(h: Harness) -> None:
    document = (await h.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert set(schemas["Context"]["properties"]) == {"hour", "device", "slot"}
    assert schemas["Costs"]["properties"]["video"]["maximum"] == 0.05
    assert "cancel" in schemas["Outcome"]["properties"]["kind"]["enum"]
    assert "ISO 8601" in schemas["Instance"]["properties"]["timestamp"]["description"]
    body = document["paths"]["/v1/models/ads:predict"]["post"]["requestBody"]["content"]["application/json"]
    example = body["examples"]["example"]["value"]
    assert (await h.post("/v1/models/ads:predict", example)).status_code == 200
    assert "401" not in document["paths"]["/v1/outcomes"]["post"]["responses"]  # `auth: {kind: none}`


@pytest.mark.integration
def test_no_request_of_the_document_is_answered_otherwise(feast_repo: Path, tmp_path: Path) -> None:
    # A short deadline: schemathesis injects faults, too. Whatever they do to a decision, its answer is in the document.
    with router(feast_repo, tmp_path / "router", drills=True, deadline_ms=100) as process:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{process.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "150", "--no-color"]
        command += ["--seed", "1", "--generation-deterministic"]
        command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
        # What the document can't say is refused as well: a time in the future, a baseline that is not on offer.
        command += ["--exclude-checks", "positive_data_acceptance"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        httpx.delete(f"{process.url}/v1/drills", headers=HEADERS)
        answer = httpx.post(f"{process.url}/v1/models/ads:predict", json={"instances": [instance()]}, headers=HEADERS)
        assert answer.status_code == 200
    log = (tmp_path / "router" / "router.log").read_text()
    assert "Traceback" not in log, log


@pytest.mark.integration
def test_every_status_of_the_document_is_real(feast_repo: Path, tmp_path: Path) -> None:
    seen: set[tuple[str, str, str]] = set()

    def note(operation: Operation, answer: httpx.Response, *expected: str) -> None:
        status, body = str(answer.status_code), answer.text
        assert status in expected, (operation, status, body)
        conform(document, operation, answer)
        seen.add((*operation, status))

    with router(feast_repo, tmp_path / "ready", drills=True, max_body_bytes=4096) as process:
        document = httpx.get(f"{process.url}/openapi.json", headers=HEADERS).json()
        operations = {
            (method, path): described for path, item in document["paths"].items() for method, described in item.items()
        }
        promised = {(*operation, status) for operation, one in operations.items() for status in one["responses"]}
        for operation in operations:
            note(operation, ask(process, document, operation), "200")
            note(operation, ask(process, document, operation, headers={"x": "y" * 40_000}), "431")
            if (*operation, "400") in promised:
                note(operation, ask(process, document, operation, content=b"{"), "400")
            if (*operation, "401") in promised:
                note(operation, ask(process, document, operation, headers={"authorization": "none"}), "401")
            if (*operation, "413") in promised:
                note(operation, ask(process, document, operation, content=b" " * 5000), "413")
        v1, v2 = (("post", f"/{path}") for path in ("v1/models/ads:predict", "v2/models/ads/infer"))
        process.predict(instance(request_id="r"), headers=HEADERS)
        other = {"instances": [instance(request_id="r", context={**CONTEXT, "hour": 1})]}
        note(v1, ask(process, document, v1, json=other), "409")
        tensors = {**other["instances"][0], "context": '{"hour": 2, "device": "phone"}'}
        inputs = [{"name": k, "datatype": "BYTES", "shape": [1], "data": [v]} for k, v in tensors.items()]
        note(v2, ask(process, document, v2, json={"inputs": inputs}), "409")
        for operation, answer in slow_answers(process, operations):
            note(operation, answer, "408")
        with bodies_that_never_come(process):
            for operation in operations:
                if (*operation, "429") in promised:
                    note(operation, ask(process, document, operation), "429")
    waiting = tmp_path / "waiting"
    (waiting / "features").mkdir(parents=True)
    shutil.copy(feast_repo / "feature_store.yaml", waiting / "features")
    (waiting / "features" / "online.db").symlink_to(feast_repo / "online.db")
    with router(feast_repo, waiting, ready=False) as process:
        while "registry" not in httpx.get(f"{process.url}/health/ready").text:
            time.sleep(0.1)
        for operation in operations:
            if (*operation, "503") in promised and operation != ("get", "/health/live"):
                note(operation, ask(process, document, operation), "503")
        shutil.copy(feast_repo / "registry.db", waiting / "features")
        process.said("router ready http://127.0.0.1:")
        for operation in operations:
            if (*operation, "404") in promised:
                note(operation, ask(process, document, operation), "404")
    assert promised - seen == {("get", "/health/live", "503")}  # an event loop that hangs


def ask(process: Process, document: dict[str, Any], operation: Operation, **options: Any) -> httpx.Response:
    """The document's own example, unless `options` say otherwise."""
    method, path = operation
    if body := document["paths"][path][method].get("requestBody"):
        example = body["content"]["application/json"]["examples"]["example"]["value"]
        options = options if options.keys() & {"content", "json"} else {**options, "json": example}
    headers = {**HEADERS, **options.pop("headers", {})}
    return httpx.request(method, f"{process.url}{path}", headers=headers, timeout=60, **options)


def conform(document: dict[str, Any], operation: Operation, answer: httpx.Response) -> None:
    method, path = operation
    described = document["paths"][path][method]["responses"][str(answer.status_code)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    kind = answer.headers["content-type"].partition(";")[0]
    schema = described["content"][kind]["schema"]
    if kind == "application/json":
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    for name, header in described.get("headers", {}).items():
        assert name in answer.headers or not header["required"]


def slow_answers(process: Process, operations: Any) -> Iterator[tuple[Operation, httpx.Response]]:
    """Of requests that do not arrive in time, all at once; for GET that is the head, else the body."""
    connections = {}
    for method, path in operations:
        head = f"{method.upper()} {path} HTTP/1.1\r\nhost: router\r\n"
        if method != "get":
            head += f"authorization: Bearer {TOKEN}\r\ncontent-length: 10\r\n\r\n"
        connections[method, path] = connected(process, head)
    for operation, connection in connections.items():
        with connection:
            connection.settimeout(60)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            yield operation, httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


@contextlib.contextmanager
def bodies_that_never_come(process: Process) -> Iterator[None]:
    head = f"POST /v1/outcomes HTTP/1.1\r\nhost: router\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 10\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(connected(process, head))
        yield


def connected(process: Process, text: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])))
    connection.sendall(text.encode())
    return connection

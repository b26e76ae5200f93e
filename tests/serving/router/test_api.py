"""Tests that the router's answers conform to its OpenAPI document."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from serving.router.messages import STARTING
from tests.properties import examples
from tests.serving.router_fixtures import CONTEXT, Harness, instance, running, with_router
from tests.serving.router_process import Process

TOKEN = "0123456789abcdef-token"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
V1 = "/v1/models/ads:predict"
OF_THE_CONNECTION = {"408", "431"}  # tested in tests/serving/test_connection_limits.py


@with_router()
async def test_the_document_describes_the_routers_data_set(h: Harness) -> None:
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
def test_all_answers_conform_to_the_document(feast_repo: Path, tmp_path: Path) -> None:
    # The deadline is short, because schemathesis also injects faults that hang.
    token = {"kind": "token", "file": "token.txt"}
    (tmp_path / "token.txt").write_text(TOKEN)
    (tmp_path / "features").symlink_to(feast_repo)
    with Process(tmp_path, auth=token, drills=True, deadline_ms=100) as process:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{process.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {TOKEN}", "--no-color"]
        command += ["--seed", "1", "--generation-deterministic", "--max-examples", str(examples(50, 150))]
        command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
        # A schema cannot express all rules, so the router may refuse valid examples.
        command += ["--exclude-checks", "positive_data_acceptance"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        httpx.delete(f"{process.url}/v1/drills", headers=HEADERS, timeout=60)
        process.predict(instance(), headers=HEADERS)
    log = (tmp_path / "router.log").read_text()
    assert "Traceback" not in log, log


async def test_every_documented_status_can_occur(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(TOKEN)
    async with running(tmp_path, auth={"kind": "token", "file": "token.txt"}, drills=True, max_body_bytes=4096) as h:
        document = (await h.client.get("/openapi.json", headers=HEADERS)).json()
        operations = {(method, path): one for path, item in document["paths"].items() for method, one in item.items()}
        left = {(*at, status) for at, one in operations.items() for status in one["responses"]}

        async def asked(status: str, *paths: str, **options: Any) -> None:
            for method, path, _ in sorted(one for one in left if one[2] == status and (not paths or one[1] in paths)):
                given = {"headers": HEADERS, **options}
                if (body := operations[method, path].get("requestBody")) and not given.keys() & {"content", "json"}:
                    given["json"] = body["content"]["application/json"]["examples"]["example"]["value"]
                answer = await h.client.request(method, path, **given)
                assert str(answer.status_code) == status, (method, path, answer.text)
                conform(document, operations[method, path], answer)
                left.remove((method, path, status))

        await asked("200")
        await asked("400", content=b"{")
        await asked("401", headers={})
        await asked("413", content=b" " * 5000)
        await h.client.post(V1, json={"instances": [instance(request_id="r")]}, headers=HEADERS)
        other = instance(request_id="r", context={**CONTEXT, "hour": 1})
        await asked("409", V1, json={"instances": [other]})
        tensors = {**other, "context": '{"hour": 2, "device": "phone"}'}
        inputs = [{"name": k, "datatype": "BYTES", "shape": [1], "data": [v]} for k, v in tensors.items()]
        await asked("409", json={"inputs": inputs})
        h.gateway.readers = 256
        await asked("429")
        h.gateway.readers = 0
        h.router.drills = None
        await asked("404")
        h.router.health.waiting_for = STARTING()
        left.remove(("get", "/health/live", "503"))  # it needs an event loop that hangs
        await asked("503")
        assert {status for _, _, status in left} == OF_THE_CONNECTION


def conform(document: dict[str, Any], operation: dict[str, Any], answer: httpx.Response) -> None:
    described = operation["responses"][str(answer.status_code)]
    kind = answer.headers["content-type"].partition(";")[0]
    schema = described["content"][kind]["schema"]
    if kind == "application/json":
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})

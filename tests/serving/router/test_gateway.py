"""Tests that the gateway refuses requests without a valid token, with a large body, or above the request limit."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serving.router import messages
from serving.router.http.auth import Authentication
from serving.router.ops.settings import SettingsError, TokenAuth
from tests.lakes import id_of
from tests.serving.router_fixtures import Harness, instance, running, sample, with_router
from tests.waiting import until

TOKEN = "0123456789abcdef-token"
BODY = {"instances": [instance()]}
PREDICT = "/v1/models/ads:predict"


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


async def test_a_caller_without_a_token_can_neither_decide_nor_report(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(TOKEN + "\n")
    before = sample("mtorl_refused_requests_total", status="401")
    async with running(tmp_path, auth={"kind": "token", "file": "token.txt"}) as h:
        for path in (PREDICT, "/v2/models/ads/infer", "/v1/outcomes", "/v1/drills", "/v2/repository/x"):
            for headers in ({}, {"authorization": "Bearer wrong-0123456789abcdef"}, {"authorization": TOKEN}):
                response = await h.post(path, None, json=BODY, headers=headers)
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["code"] == messages.NOT_AUTHENTICATED.code
        assert not h.records() and not h.arm.asked
        assert sample("mtorl_refused_requests_total", status="401") >= before + 15
        assert (await h.client.get("/docs")).status_code == 401
        for path in ("/metrics", "/health/live", "/health/ready", "/v2/health/live", "/v1/models/ads"):
            assert (await h.client.get(path)).status_code == 200, path
        good = await h.post(PREDICT, None, json=BODY, headers={"authorization": f"bearer {TOKEN}"})
        assert good.status_code == 200 and TOKEN not in (await h.client.get("/metrics")).text


def test_a_token_is_rotated_without_a_restart_and_never_by_accident(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\nshort\n")
    tokens = Authentication(TokenAuth(kind="token", file=str(file)))
    assert tokens.admits(bearer(TOKEN)) and not tokens.admits(bearer("short")) and not tokens.admits(bearer(""))
    file.write_text(f"{TOKEN}\nanother-0123456789\n")
    assert tokens.admits(bearer("another-0123456789")) and tokens.admits(bearer(TOKEN))
    file.write_text("another-0123456789\n\n")
    assert not tokens.admits(bearer(TOKEN))
    file.write_text("")
    assert tokens.admits(bearer("another-0123456789"))
    file.unlink()
    assert tokens.admits(bearer("another-0123456789"))
    assert not tokens.admits(bearer("another-0123456789") * 2)  # two headers are ambiguous

    file.write_text("short\n")
    for useless in (file, tmp_path / "absent"):
        with pytest.raises(SettingsError, match=f"auth.file: {useless} "):
            Authentication(TokenAuth(kind="token", file=str(useless)))


@with_router(max_body_bytes=4096)
async def test_a_large_or_endless_body_is_refused_before_it_is_read(h: Harness) -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 1000

    for content in (b"x" * 5000, endless()):
        response = await h.post(PREDICT, None, content=content)
        assert response.status_code == 413
        assert response.json() == messages.BODY_TOO_LARGE(most=4096).body
    assert h.gateway.readers == 0
    assert (await h.predict())[0]["expose"]


async def test_requests_beyond_the_limit_get_429_and_a_retry_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.router.flow.admission.PATIENCE", 0.001)
    monkeypatch.setattr("serving.router.flow.admission._REFUSAL", 0.001)
    async with running(tmp_path, max_in_flight=3) as h:
        h.arm.mode = "hold"
        waiting = [asyncio.create_task(h.post(PREDICT, BODY)) for _ in range(3)]
        await until(lambda: h.gateway.decisions.inside == 3)
        h.gateway.decisions._mean = 20.0  # mean time of an answer, seconds
        assert h.gateway.sheds(b"POST", PREDICT.encode())
        assert not h.gateway.sheds(b"GET", b"/metrics") and not h.gateway.sheds(b"POST", b"/v1/outcomes?x=y")
        # Of several requests at once, only those within the limit are admitted.
        h.gateway.decisions.inside = 1
        assert [h.gateway.sheds(b"POST", PREDICT.encode()) for _ in range(4)] == [False, False, True, True]
        h.gateway.decisions.inside, h.gateway.decisions.coming = 3, 0
        refused = await h.post(PREDICT, BODY)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        await h.outcome(id_of("d"), "click", 1)
        h.arm.release.set()
        assert [(await answer).status_code for answer in waiting] == [200] * 3
        assert h.gateway.decisions.inside == 0
        h.arm.mode = "ok"
        assert (await h.predict())[0]["expose"]

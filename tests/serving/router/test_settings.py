"""A wrong setting is named before the router starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.router.ops.settings import RouterSettings, SettingsError
from tests.serving.router_fixtures import (
    Harness,
    run,
    write_settings,
)

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "8080"}, "port"),
        ({"port": 70000}, "port"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"cost_cap": {}}, "cost_cap"),
        ({"cost_cap": {"search": -1}}, "cost_cap"),
        ({"ledger": 3}, "ledger"),
        ({"ledger": ""}, "ledger"),
        ({"ledger": "http://redis"}, "ledger: expected a path, or a URL that starts with"),
        ({"ledger": "redis://:s3cret@host"}, "ledger: no password in the URL.* MTORL_LEDGER_PASSWORD"),
        ({"ledger": "redis://host:port"}, "ledger: not a URL"),
        ({"reservation_ttl_hours": 0}, "reservation_ttl_hours"),
        ({"model_name": ""}, "model_name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_settings(tmp_path, "http://x", {}, **settings)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text("port: 1")
    with pytest.raises(SettingsError, match="experiment"):
        RouterSettings.load(tmp_path / "router.yaml")
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        RouterSettings.load(tmp_path / "absent.yaml")


def test_every_channel_needs_a_cap(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        raise AssertionError

    with pytest.raises(SettingsError, match="video"):
        run(scenario, tmp_path, cost_cap={"search": 1.0})


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (None, "auth: expected a mapping, got None"),
        ({}, "auth: missing field 'kind'"),
        ({"kind": "magic"}, "auth.kind: 'magic' is not one of none, token, header"),
        ({"kind": "none", "file": "x"}, "auth.none: unknown field 'file'; known: kind"),
        ({"kind": "token"}, "auth.token: missing field 'file'"),
        ({"kind": "token", "file": 3}, "auth.token.file: expected a path, got 3"),
        ({"kind": "header", "name": "x", "values": []}, "auth.header.values: expected at least 1 item, got 0"),
    ],
)
def test_a_wrong_auth_setting_is_named(tmp_path: Path, auth: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_settings(tmp_path, "http://x", {}, auth=auth)


def test_authentication_is_never_off_by_default(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing field 'auth'"):
        settings = write_settings(tmp_path, "http://x", {})
        text = (tmp_path / "router.yaml").read_text().replace("auth:\n  kind: none\n", "")
        (tmp_path / "router.yaml").write_text(text)
        type(settings).load(tmp_path / "router.yaml")

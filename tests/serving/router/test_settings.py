import re
from pathlib import Path
from typing import Any

import pytest

from serving.router.ops.settings import RouterSettings, SettingsError, Tracing
from serving.router.router import Router
from tests.serving.router_fixtures import FakeFeatures, write_settings


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"port": 70000}, "port"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"cost_cap": {}}, "cost_cap"),
        ({"colour": "red"}, "colour"),
        ({"ledger": 3}, "ledger"),
        ({"ledger": "http://redis"}, "ledger"),
        ({"ledger": "redis://:s3cret@host"}, "ledger"),
        ({"ledger": "redis://host:port"}, "ledger"),
        ({"lake": "s3://key:s3cret@ads/lake?region=eu-central-1"}, "lake"),
        ({"sink": ""}, "sink"),
        ({"sink": "ftp://x"}, "sink"),
        ({"auth": {"kind": "magic"}}, "auth.kind"),
        ({"auth": {"kind": "none", "file": "x"}}, "auth.none"),
        ({"auth": {"kind": "token", "file": 3}}, "auth.token.file"),
        ({"tracing": {}}, "tracing"),
        ({"tracing": {"endpoint": "otel-collector:4318"}}, "tracing.endpoint"),
        ({"tracing": {"endpoint": "http://otel-collector:port"}}, "tracing.endpoint"),
        ({"tracing": {"endpoint": "http://otel-collector:4318/v1/traces"}}, "tracing.endpoint"),
        ({"tracing": {"endpoint": "http://user:s3cret@host"}}, "tracing.endpoint"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, settings: dict[str, Any], place: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(place)) as refused:
        write_settings(tmp_path, "http://x", {}, **settings)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("missing", ["experiment", "auth"])
def test_a_missing_setting_is_named(tmp_path: Path, missing: str) -> None:
    """Authentication is never off by default."""
    write_settings(tmp_path, "http://x", {})
    file = tmp_path / "router.yaml"
    file.write_text(file.read_text().replace("auth:\n  kind: none\n", "").replace("experiment: experiment.yaml\n", ""))
    with pytest.raises(SettingsError, match=f"missing.*{missing}"):
        RouterSettings.load(file)
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        RouterSettings.load(tmp_path / "absent.yaml")


def test_every_channel_needs_a_cap(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="video"):
        Router(write_settings(tmp_path, "http://x", {}, cost_cap={"search": 1.0}), FakeFeatures())


def test_the_environment_can_switch_tracing_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_settings(tmp_path, "http://x", {}).tracing is None
    monkeypatch.setenv("MTORL_TRACING", "http://collector:4318")
    assert RouterSettings.load(tmp_path / "router.yaml").tracing == Tracing(endpoint="http://collector:4318")
    given = write_settings(tmp_path, "http://x", {}, tracing={"endpoint": "http://other", "share": 0.5}).tracing
    assert given == Tracing(endpoint="http://collector:4318", share=0.5)
    with pytest.raises(SettingsError, match="tracing"):
        write_settings(tmp_path, "http://x", {}, tracing="on")

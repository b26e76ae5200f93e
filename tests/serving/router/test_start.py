"""Tests that a starting router answers probes and uses the last valid experiment."""

import asyncio
import threading
from math import inf
from pathlib import Path

import httpx
import pytest
import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from serving.decision_log import Spool
from serving.router import messages
from serving.router.flow.features import FeastSource, RegistryAwaited, registry_file
from serving.router.http.gateway import Gateway
from serving.router.ops.health import Health
from serving.router.router import Router
from tests.experiments import experiment
from tests.messages import assert_says
from tests.serving.router_fixtures import FakeFeatures, instance, only, sample, write_settings
from tests.waiting import until


async def test_a_log_that_is_slow_to_read_delays_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_read = threading.Event()
    read = Spool.__init__

    def slow(*arguments: object, **options: object) -> None:
        assert may_read.wait(60)
        read(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Spool, "__init__", slow)
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {}, auth={"kind": "token", "file": "tokens"})
    (tmp_path / "tokens").write_text("t" * 20)
    router = Router(settings, FakeFeatures())
    start = asyncio.create_task(router.__aenter__())
    token = {"authorization": "Bearer " + "t" * 20}
    transport = httpx.ASGITransport(app=Gateway(router, settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        assert (await client.get("/v2/health/ready")).status_code == 503
        opening = messages.OPENING(folder=str(tmp_path / "spool"))
        await until(lambda: router.health.waiting_for == opening)
        assert (await client.get("/health/ready")).json()["problems"]["router"] == [opening.body]
        assert (await client.get("/health/live")).status_code == 200
        decide = {"instances": [instance()]}
        for path, body in (("/v1/models/ads:predict", decide), ("/v2/models/ads/infer", {}), ("/v1/outcomes", {})):
            assert (await client.post(path, json=body)).status_code == 401  # without a token, no reason is given
            early = await client.post(path, json=body, headers=token)
            assert early.status_code == 503 and early.headers["retry-after"] == "2"
            assert early.json() == opening.body
        answer = await client.get("/health/ready")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
        may_read.set()
        await start
        assert (await client.get("/health/ready")).status_code == 200
        answer = await client.post("/v1/models/ads:predict", json=decide, headers=token)
        assert answer.status_code == 200
    await router.__aexit__(None, None, None)


def test_health_reports_since_when_a_part_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("serving.router.ops.health.monotonic", lambda: now)
    health = Health()
    health.report("challenger", TimeoutError())
    now = 130.0
    health.report("challenger", ConnectionError())
    assert health.parts == {"challenger": messages.NO_ANSWER(seconds=30, cause="ConnectionError")}
    assert health.quiet("challenger") == 0
    fault = health.fault("challenger")
    assert fault is not None and fault.seconds == 30
    note = messages.NOT_KEPT(error="gives way to a fault")
    health.note("challenger", note)
    assert health.parts["challenger"].startswith("no answer")
    health.report("challenger")
    assert health.parts["challenger"] == note and health.fault("challenger") is None
    health.note("challenger")
    assert health.parts == {"challenger": "ok"}
    health.forget("challenger")
    assert health.quiet("challenger") == inf


def test_only_a_registry_in_a_file_is_waited_for(tmp_path: Path) -> None:
    def of(registry: str) -> Path | None:
        (tmp_path / "feature_store.yaml").write_text(
            f"project: p\nprovider: local\nregistry: {registry}\nonline_store: {{type: sqlite, path: online.db}}\n"
            "entity_key_serialization_version: 3\n"
        )
        return registry_file(tmp_path)

    assert of("registry.db") == tmp_path / "registry.db"
    assert of("{path: /mnt/x/registry.db}") == Path("/mnt/x/registry.db")
    assert of("{path: s3://bucket/registry.db}") is None
    of("registry.db")
    with pytest.raises(RegistryAwaited, match=r"registry\.db"):
        FeastSource(tmp_path, "any")


def test_an_invalid_experiment_file_at_a_restart_keeps_the_last_good_one(tmp_path: Path) -> None:
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {"name": "first", "enabled": False})
    good = only(Router(settings, FakeFeatures()).live)
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {"name": "second", "stage": "9%"})
    router = Router(settings, FakeFeatures())
    assert only(router.live) == good and not good.enabled
    assert_says(router.health.problems["experiment"][0], messages.EXPERIMENT_REFUSED)
    assert "experiment.yaml: stage" in router.health.parts["experiment"]
    assert sample("mtorl_experiment_refused") == 1 and sample("mtorl_experiment_enabled", experiment="first") == 0
    write_settings(tmp_path, "http://127.0.0.1:9", {"name": "second"})
    assert router.live.refresh() and only(router.live).name == "second"
    assert sample("mtorl_experiment_refused") == 0 and router.health.parts["experiment"] == "ok"


def test_without_a_last_good_experiment_an_invalid_file_leaves_none(tmp_path: Path) -> None:
    wrong = {"stage": "9%"}
    settings = write_settings(tmp_path, "http://127.0.0.1:9", wrong)
    with pytest.raises(ExperimentError, match="stage"):
        _ = only(Router(settings, FakeFeatures()).live)
    assert sample("mtorl_experiment_refused") == 1
    kept = tmp_path / "last-good-experiments" / "experiment.yaml"
    assert not kept.exists()
    kept.parent.mkdir()
    kept.write_text(yaml.safe_dump(experiment("http://127.0.0.1:9", default_channel="tv")))  # for another data set
    with pytest.raises(ExperimentError, match="stage"):
        _ = only(Router(settings, FakeFeatures()).live)
    # Other routers may have a newer experiment, whose limits an old copy must not overwrite.
    kept.write_text(yaml.safe_dump(experiment("http://127.0.0.1:9")))
    shared = write_settings(tmp_path, "http://127.0.0.1:9", wrong, ledger="redis://127.0.0.1:9")
    with pytest.raises(ExperimentError, match="stage"):
        _ = only(Router(shared, FakeFeatures()).live)
    assert only(Router(settings, FakeFeatures()).live).name == "test"
    shared = write_settings(tmp_path, "http://127.0.0.1:9", {"enabled": False}, ledger="redis://127.0.0.1:9")
    assert not only(Router(shared, FakeFeatures()).live).enabled
    assert not Experiment.load(kept).enabled, "kept for the runbook, which restores it"


def test_an_experiment_that_is_not_kept_leaves_no_older_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a disabled experiment cannot be stored, the older copy, which is enabled, must be deleted.

    Otherwise a restart with an invalid file would load that copy.
    """
    Router(write_settings(tmp_path, "http://127.0.0.1:9", {"enabled": True}), FakeFeatures())

    def full(*_: object, **__: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("serving.router.ops.live_experiments.replacing", full)
    router = Router(write_settings(tmp_path, "http://127.0.0.1:9", {"enabled": False}), FakeFeatures())
    assert not only(router.live).enabled
    assert_says(router.health.problems["experiment"][0], messages.NOT_KEPT, error="full")
    with pytest.raises(ExperimentError, match="stage"):
        _ = only(Router(write_settings(tmp_path, "http://127.0.0.1:9", {"stage": "9%"}), FakeFeatures()).live)


async def test_a_router_waits_until_an_invalid_experiment_file_is_corrected(tmp_path: Path) -> None:
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {"stage": "9%"})
    router = Router(settings, FakeFeatures())
    entering = asyncio.create_task(router.__aenter__())
    await until(lambda: "stage" in router.health.waiting_for)
    assert not router.health.started and not entering.done()
    write_settings(tmp_path, "http://127.0.0.1:9", {"stage": "5%"})
    await entering
    assert router.health.started and only(router.live).stage == "5%"
    await router.__aexit__()


def test_the_last_good_copy_equals_the_experiment(tmp_path: Path) -> None:
    pacing = {"price": 0.3, "start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
    budgets = [{"campaign": "*", "channel": "*", "amount": 1e-05, "pacing": pacing}]
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {"budgets": budgets, "salt": "1e3", "owner": "Jürgen: x"})
    in_force = only(Router(settings, FakeFeatures()).live)
    assert Experiment.load(tmp_path / "last-good-experiments" / "experiment.yaml") == in_force


async def test_a_kill_switch_that_is_set_during_a_start_applies_from_the_start(tmp_path: Path) -> None:
    settings = write_settings(tmp_path, "http://127.0.0.1:9", {})
    router = Router(settings, FakeFeatures())
    write_settings(tmp_path, "http://127.0.0.1:9", {"enabled": False})
    async with router:
        assert not only(router.live).enabled
        limits = {b.arm: b.limit for b in router.ledger.balances()}
        assert limits == {"*": 100.0, "test/incumbent": 100.0, "test/challenger": 0.0}

"""Runs a router with arms that fail on demand and a feature store in a dictionary."""

import asyncio
import errno
import inspect
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any

import httpx
import yaml
from aiohttp import web
from prometheus_client import REGISTRY

from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import Column, DatasetSpec, RewardSpec
from serving.decision_log import Spool
from serving.kserve_sdk import quiet
from serving.ledger.contract import Balance, Ledger, LedgerUnavailable
from serving.router.flow.features import UserFeatures
from serving.router.flow.requests import DecisionRequest
from serving.router.http.gateway import Gateway
from serving.router.ops.live_experiments import LiveExperiments
from serving.router.ops.settings import RouterSettings
from serving.router.router import Router
from tests.experiments import experiment
from tests.waiting import until

SPEC = DatasetSpec(
    name="tiny",
    description="two channels",
    adapter="touchpoints",
    channels=("search", "video"),
    context=(
        Column(name="hour", kind="numeric"),
        Column(name="device", kind="categorical"),
        Column(name="slot", kind="categorical", missing="unknown"),
    ),
    static=(Column(name="age", kind="categorical"),),
    segment="age",
    reward=RewardSpec(gain="click"),
    propensity="logged",
    currency="EUR",
    window=3,
)
CONTEXT = {"hour": 14, "device": "phone", "slot": "top"}
# deadline in ms for tests that wait until it has passed
SHORT_DEADLINE = 2000
COST_CAP = {"search": 0.6, "video": 0.05}


def instance(user_id: str = "u1", **changes: Any) -> dict[str, Any]:
    return {"user_id": user_id, "campaign_id": "spring", "context": CONTEXT, **changes}


def event(decision_id: str, kind: str = "cost", value: float = 0.01, event_id: str = "e1") -> dict[str, Any]:
    at = "2026-01-01T12:00:00Z"
    return {"event_id": event_id, "decision_id": decision_id, "kind": kind, "value": value, "event_time": at}


def arms(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": name, "weight": 0.5, **fields} for name in ("incumbent", "challenger")]


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "channel": "video",
        "propensity": 0.75,
        "channel_probs": {"search": 0.25, "video": 0.75},
        "expected_reward": 0.1,
        "expected_cost": 0.03,
        "expose": True,
        "utility": 0.05,
        "model": {"name": "m", "version": "1", "digest": "d1"},
        **changes,
    }


class FakeArm:
    """A fake model server for both arms.

    `mode` is "ok", "hold" (until `release` is set), "hang", "hang-up", "hang-up once", an HTTP status, the bytes of an
    answer, or a function from an item to its prediction.
    """

    url: str

    def __init__(self) -> None:
        self.mode: Any = "ok"
        self.form: Callable[[list[Any]], Any] = lambda predictions: {"predictions": predictions}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.traceparents: list[str] = []
        self.release = asyncio.Event()

    async def start(self) -> str:
        application = web.Application()
        application.router.add_post("/v1/models/{arm}", self._answer)
        application.router.add_post("/v2/models/{arm}/infer", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self.url

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        items = [json.loads(text) for text in body["inputs"][0]["data"]] if "inputs" in body else body["instances"]
        arm = request.match_info["arm"].removesuffix(":predict")
        self.traceparents.extend(request.headers.getall("traceparent", []))
        self.asked.extend((arm, item) for item in items if item["window"]["context"]["device"][-1] != "warm-up")
        match self.mode:
            case "hold":
                await self.release.wait()
            case "hang":
                await asyncio.sleep(3600)
            case "hang-up" | "hang-up once":
                assert request.transport is not None
                request.transport.close()
                self.mode = "ok" if self.mode == "hang-up once" else self.mode
            case int(status):
                return web.Response(status=status, text="broken")
            case bytes(body):
                return web.Response(body=body, content_type="application/json")
        answer = self.mode if callable(self.mode) else lambda _: decision()
        return web.json_response(self.form([answer(item) for item in items]), headers=self.headers)


@dataclass
class FakeFeatures:
    """A feature store in a dictionary; a missing user is unknown."""

    users: dict[str, UserFeatures] = field(default_factory=dict)
    fault: Exception | None = None
    seconds: float = 0.0

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        time.sleep(self.seconds)
        if self.fault:
            raise self.fault
        unknown = UserFeatures({}, {"age": None}, has_history=False)
        return [self.users.get(request.user_id, unknown) for request in requests]


def known_user() -> UserFeatures:
    """Return the features of a user who clicked on a video an hour ago."""
    lists = {"channel": ["video"], "click": [1], "conversion": [0], "revenue": [0.0], "cost": [0.03]}
    lists |= {"timestamp": [float(int(time.time() - 3600) * 1_000_000)]}
    context = {"hour": [9.0], "device": ["tv"], "slot": ["top"]}
    return UserFeatures({f"hist_{k}": v for k, v in {**lists, **context}.items()}, {"age": "30-39"}, has_history=True)


def only(live: LiveExperiments) -> Experiment:
    (experiment,) = live.experiments
    return experiment


def write_settings(folder: Path, endpoint: str, changes: dict[str, Any], **settings: Any) -> RouterSettings:
    SPEC.save(folder / "dataset.yaml")
    content = {
        "port": 0,
        "experiment": "experiment.yaml",
        "dataset": "dataset.yaml",
        "feature_repo": "features",
        "ledger": "ledger.sqlite",
        "spool": "spool",
        "lake": "lake",
        "cost_cap": COST_CAP,
        "auth": {"kind": "none"},
        # Long enough on a busy host. Tests of slow parts use SHORT_DEADLINE.
        "deadline_ms": 20_000,
        **settings,
    }
    (folder / "router.yaml").write_text(yaml.safe_dump(content))
    file = folder / content["experiment"]
    if not file.suffix:  # a folder of experiments
        file.mkdir(exist_ok=True)
        file /= "first.yaml"
    file.write_text(yaml.safe_dump(experiment(endpoint, **changes)))
    return RouterSettings.load(folder / "router.yaml")


def made_feast_repo(folder: Path) -> Path:
    import pandas as pd

    from features.offline.store import create, materialize

    row = {"user_id": "u1", "campaign_id": "c", "cost": 0.03, "conversion": 0, "revenue": 0.0, "propensity": 0.5}
    row |= {"device": "tv", "slot": "top", "age": "30-39"}
    start = pd.Timestamp("2026-01-01", tz="UTC")
    rows = [
        {**row, "timestamp": start + pd.Timedelta(hours=i), "channel": channel, "click": i % 2, "hour": float(i)}
        for i, channel in enumerate(("search", "video"))
    ]
    pd.DataFrame(rows)[list(SPEC.log_columns)].to_parquet(folder / "log.parquet")
    create(folder / "features", SPEC, folder / "log.parquet")
    materialize(folder / "features", SPEC, folder / "log.parquet")
    return folder / "features"


@dataclass
class Harness:
    folder: Path
    settings: RouterSettings
    router: Router
    arm: FakeArm
    features: FakeFeatures

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.router, self.settings)
        transport = httpx.ASGITransport(app=self.gateway, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://router")

    async def restart(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        await self.router.__aexit__(None, None, None)
        meanwhile()
        self.router = await Router(self.settings, self.features).__aenter__()
        self.__post_init__()

    @property
    def spool(self) -> Spool:
        return self.router.spool

    @property
    def ledger(self) -> Ledger:
        return self.router.ledger

    def put(self, **changes: Any) -> None:
        draft = self.folder / "experiment.draft"
        draft.write_text(yaml.safe_dump(experiment(self.arm.url, **changes)))
        draft.replace(self.folder / "experiment.yaml")

    async def change(self, **changes: Any) -> None:
        """Replace the experiment file, and wait until the router uses it and has set its accounts."""
        before = self.router.live.experiments
        self.put(**changes)
        await until(lambda: self.router.live.experiments is not before)
        await until(lambda: self.router.budgets.set_up_for(self.router.live.experiments))

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return await self.client.post(path, **(options or {"json": body}))

    async def predict(self, *instances: dict[str, Any]) -> list[dict[str, Any]]:
        response = await self.post("/v1/models/ads:predict", {"instances": list(instances or [instance()])})
        assert response.status_code == 200, response.text
        predictions: list[dict[str, Any]] = response.json()["predictions"]
        return predictions

    async def outcome(self, decision_id: str, kind: str, value: float, event_id: str = "e1") -> dict[str, int]:
        response = await self.post("/v1/outcomes", {"outcomes": [event(decision_id, kind, value, event_id)]})
        assert response.status_code == 200, response.text
        counts: dict[str, int] = response.json()
        return counts

    def records(self) -> list[dict[str, Any]]:
        return list(self.spool.read("decision"))

    def records_of(self, answers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the records in the order of the answers; their order in the log is random."""
        by_id = {record["decision_id"]: record for record in self.records()}
        return [by_id[answer["decision_id"]] for answer in answers]

    def balance(self, arm: str) -> Balance:
        return next(b for b in self.ledger.balances() if b.arm.rpartition("/")[2] == arm)

    def holds_nothing(self) -> bool:
        try:
            return self.ledger.open_reservations() == [] and all(one.reserved == 0 for one in self.ledger.balances())
        except LedgerUnavailable:
            return False


_quiet_once = cache(quiet)


@asynccontextmanager
async def running(folder: Path, changes: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Harness]:
    arm, features = FakeArm(), FakeFeatures({"u1": known_user()})
    config = write_settings(folder, await arm.start(), changes or {}, **settings)
    _quiet_once()
    try:
        router = await Router(config, features).__aenter__()
        harness = Harness(folder, config, router, arm, features)
        try:
            yield harness
        finally:
            await harness.router.__aexit__(None, None, None)
    finally:
        await arm.stop()


def with_router(**options: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Return a decorator that turns a function of a running router into a test.

    `options` are passed to `running`, as are the function's parameters `changes`, `ledger` and `deadline_ms`.
    """

    def decorate(scenario: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        fixtures = list(inspect.signature(scenario).parameters.values())[1:]
        folder = inspect.Parameter("tmp_path", inspect.Parameter.KEYWORD_ONLY)

        @wraps(scenario)
        async def test(tmp_path: Path, **given: Any) -> None:
            given |= {"tmp_path": tmp_path} if "tmp_path" in (fixture.name for fixture in fixtures) else {}
            own = {name: given[name] for name in ("changes", "ledger", "deadline_ms") if name in given}
            async with running(tmp_path, **options, **own) as h:
                await scenario(h, **given)

        others = [fixture for fixture in fixtures if fixture.name != "tmp_path"]
        test.__signature__ = inspect.Signature([*others, folder])  # type: ignore[attr-defined]
        return test

    return decorate


def full_disk(file: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def sample(name: str, **labels: str) -> float:
    """Return a metric's value. Labels with an arm but no experiment mean the experiment `test` or none."""
    if "arm" not in labels or "experiment" in labels:
        return REGISTRY.get_sample_value(name, labels) or 0.0
    return sample(name, experiment="test", **labels) or sample(name, experiment="", **labels)

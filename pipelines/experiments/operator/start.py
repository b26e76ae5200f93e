"""The operator as a process: kopf reports changes, a thread reads the log, and routers ask over HTTP.

    mtorl experiment operator --namespace mtorl --log /mnt/mtorl/decision_log --dataset dataset.yaml

| path | what |
|---|---|
| / | the page of all experiments |
| /experiments.json, /metrics | the same as documents, and as Prometheus gauges |
| /v1/in-force | what routers ask (`routers.py`) |
| /health/live | 200 while the loop turns |
| /health/ready | 200 once this operator follows changes of objects |

Several may run. Each follows kill switches and moves, and answers routers, so that neither waits for an operator that
has died. One of them leads, by a lease: it alone reads the log, and shows pages and gauges.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kopf
from aiohttp import web
from pydantic import ValidationError

from monitoring.experiments.gauges import exposition
from monitoring.experiments.page import page
from mtorl.log.dataset import DatasetSpec
from mtorl.log.units import counted_gain
from mtorl.runtime.validation import first_fault
from pipelines.experiments.api import GROUP, PLURAL, VERSION
from pipelines.experiments.config_map import Entry
from pipelines.experiments.operator.cluster_api import ClusterApi
from pipelines.experiments.operator.lease import ANSWER_SECONDS, Lease
from pipelines.experiments.operator.look import LogReader
from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import Asked
from serving.inference_services import InferenceServices
from serving.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)
Made = TypeVar("Made")
_REFRESH_SECONDS = 5.0  # after which an open page asks again
_KNOWN_SECONDS = 0.5  # what is in force is asked of the API server that often at most, however many routers ask


@dataclass(frozen=True)
class Settings:
    """Of the process.

    Attributes:
        namespace: Whose experiments.
        config_map: Name of the ConfigMap with what is in force.
        dataset: The data set's description.
        log: Folder where each router has exported its decision log.
        port: Of HTTP.
        every: Seconds between two looks at the log.
    """

    namespace: str
    dataset: Path
    log: Path
    config_map: str = "mtorl-experiment"
    port: int = 8080
    every: float = 60.0


def run(settings: Settings) -> None:
    """Run until the process is told to end.

    Raises:
        SpecError: The data set's description can't be used.
    """
    spec = DatasetSpec.load(settings.dataset)
    api = ClusterApi(settings.namespace, settings.config_map)
    reader = LogReader(settings.log, counted_gain(spec))
    operator = Operator(api, reader, spec, InferenceServices(api))
    lease = Lease(KubernetesApi(settings.namespace, ANSWER_SECONDS), "mtorl-operator")
    site = _Site(operator, lease)
    threading.Thread(target=lambda: asyncio.run(site.serve(settings.port)), name="http", daemon=True).start()
    threading.Thread(target=_lead, args=(operator, lease, settings), name="lead", daemon=True).start()
    try:
        asyncio.run(_hear(operator, settings.namespace, site.follows))
    finally:
        reader.close()
        lease.release()


def _lead(operator: Operator, lease: Lease, settings: Settings) -> None:
    """Wait for the lease, then do what one of several operators does."""
    lease.wait()
    log.info("leads: this operator acts on the experiments of %s", settings.namespace)
    for name, act, seconds in (
        ("log", operator.advance, settings.every),
        ("servers", operator.settle, 1.0),
        ("routers", operator.watch, 1.0),
    ):
        threading.Thread(target=_repeat, args=(act, seconds), name=name, daemon=True).start()


async def _hear(operator: Operator, namespace: str, follows: threading.Event) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**known: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True  # nothing outside this namespace needs to be read
        settings.posting.enabled = False  # events are ours
        settings.batching.worker_limit = 4

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    def heard(name: str | None, **_: Any) -> None:
        operator.changed(str(name))

    # Without an identity kopf asks for the name of its user, and that of a container has none.
    identity: Any = socket.gethostname()
    await kopf.operator(
        registry=registry,
        namespace=namespace,
        clusterwide=False,
        standalone=True,
        identity=identity,
        ready_flag=follows,
    )


def _repeat(act: Callable[[], None], seconds: float) -> None:
    """Act again and again; what fails is said, and tried again."""
    said = ""
    while True:
        try:
            act()
            said = ""
        except Exception as error:  # an API server that is away, for the most part: nothing in force changes
            fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if fault != said:
                log.warning("%s: %s", threading.current_thread().name, fault, exc_info=not isinstance(error, OSError))
            said = fault
        time.sleep(seconds)


class _Site:
    """What is served over HTTP.

    Args:
        operator: The operator.
        lease: Whether it leads.

    Attributes:
        follows: Set once the operator follows changes of objects.
    """

    def __init__(self, operator: Operator, lease: Lease) -> None:
        self._operator = operator
        self._lease = lease
        self.follows = threading.Event()
        self._known: tuple[float, dict[str, Entry]] = (-1.0, {})
        self._answers = ThreadPoolExecutor(1, "answers")
        self._pages = ThreadPoolExecutor(1, "pages")  # however many people look at them, routers do not wait

    async def serve(self, port: int) -> None:
        """Serve until the process ends."""
        app = web.Application()
        app.router.add_post("/v1/in-force", self._in_force)
        app.router.add_get("/", self._page)
        app.router.add_get("/experiments.json", self._documents)
        app.router.add_get("/metrics", self._gauges)
        app.router.add_get("/health/{probe:live|ready}", self._health)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def _health(self, request: web.Request) -> web.Response:
        if request.match_info["probe"] == "live" or self.follows.is_set():
            return web.json_response({"leads": self._lease.leads})
        return web.json_response({"error": "it does not follow the API server yet"}, status=503)

    async def _page(self, _: web.Request) -> web.Response:
        text = await self._shown(lambda: page(self._operator.views(), refresh=_REFRESH_SECONDS))
        return web.Response(text=text, content_type="text/html")

    async def _documents(self, _: web.Request) -> web.Response:
        return web.json_response(await self._shown(self._operator.views))

    async def _gauges(self, _: web.Request) -> web.Response:
        # Two operators would count each experiment twice.
        leads = self._lease.leads
        views = await self._shown(self._operator.views) if leads else []
        return web.Response(
            body=exposition(views, leads), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _shown(self, make: Callable[[], Made]) -> Made:
        if not self._lease.leads:  # it has read no log
            raise web.HTTPServiceUnavailable(text=_stands_by(self._lease))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pages, make)
        except OSError as error:
            raise web.HTTPServiceUnavailable(text=f"the API server: {type(error).__name__}\n") from None
        except Exception as error:  # a fault of ours
            log.exception("a page can't be made")
            words = f"this can't be shown, and the operator's log says why: {type(error).__name__}\n"
            raise web.HTTPInternalServerError(text=words) from None

    async def _in_force(self, request: web.Request) -> web.Response:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._answers, self._ask)
        except Exception as error:  # the API server is away: routers go on
            return web.json_response({"error": f"the API server: {type(error).__name__}"}, status=503)
        if not found:
            return web.json_response({"error": "there is no object of kind Experiment yet: apply one"}, status=503)
        try:
            asked = Asked.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": first_fault(error)}, status=400)
        self._operator.routers.heard(asked.router[:100], asked.has)
        versions = {one.experiment.name: one.experiment.version for one in found.values() if one.experiment is not None}
        if len(versions) == len(found) and asked.has == versions and not asked.everything:
            return web.Response(status=204, headers=self._says_who_leads())
        return web.json_response({one.key: one.text for one in found.values()}, headers=self._says_who_leads())

    def _says_who_leads(self) -> dict[str, str]:
        """The leader has to know what each router has: a router asks on until it finds it."""
        return {"mtorl-leads": str(self._lease.leads).lower()}

    def _ask(self) -> dict[str, Entry]:
        asked = time.monotonic()
        if asked - self._known[0] > _KNOWN_SECONDS:
            # From before the request on: a router that asks another operator a second later gets nothing older there.
            self._known = asked, self._operator.in_force()
        return self._known[1]


def _stands_by(lease: Lease) -> str:
    words, pod = "this operator stands by and has read no log", lease.leader.partition("_")[0]
    if not pod:
        return f"{words}; none leads yet: try again in some seconds\n"
    return f"{words}; {pod} leads: kubectl -n {lease.namespace} port-forward pod/{pod} 8088:8080\n"

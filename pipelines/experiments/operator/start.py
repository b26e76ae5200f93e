"""Starts the operator: threads that watch the objects, read the log and change model servers, and an HTTP server."""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web
from pydantic import ValidationError

from monitoring.experiments.document import View
from monitoring.experiments.web import Unavailable, serving, site
from mtorl.log.dataset import DatasetSpec, counted_gain
from mtorl.runtime.validation import first_fault
from pipelines.experiments.cluster_api import OFF, SUFFIX, ClusterApi, Entry
from pipelines.experiments.operator.access import require_rights
from pipelines.experiments.operator.lease import ANSWER_SECONDS, Lease
from pipelines.experiments.operator.log_reader import LogReader
from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import Asked
from serving.inference_services import InferenceServices
from serving.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)
_ALL_ADDRESSES = "0.0.0.0"
# The ConfigMap is read at most once in this time, for all routers together.
_CACHE_SECONDS = 0.5


def run(api: ClusterApi, dataset: Path, lake: str, port: int, every: float, user_header: str = "") -> None:
    """Run the operator until the process is stopped.

    Args:
        lake: Folder or URI of the lake to which the routers upload their logs.
        every: Seconds between two reads of the log.
        user_header: HTTP header with the user's name. If empty, the page needs no login, and has no kill switches.

    Raises:
        SpecError: The description of the data set is invalid.
        OSError: The port is in use.
    """
    spec = DatasetSpec.load(dataset)
    reader = LogReader(lake, counted_gain(spec))
    operator = Operator(api, reader, spec, InferenceServices(api))
    lease = Lease(KubernetesApi(api.namespace, ANSWER_SECONDS))
    served = _Site(operator, lease)
    app = served.app(stops=bool(user_header))
    if user_header:
        require_rights(app, ClusterApi(api.namespace), user_header)
    threading.Thread(target=_lead, args=(operator, lease, every), name="lead", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    def watch() -> None:
        operator.watch()
        served.follows.set()

    try:
        with serving(app, _ALL_ADDRESSES, port):
            _repeat(watch, 1.0)
    finally:
        reader.close()
        lease.release()


def _lead(operator: Operator, lease: Lease, every: float) -> None:
    lease.wait()
    operator.leads = True
    log.info("leads: this operator acts on the experiments of %s", lease.namespace)
    for name, act, seconds in (("log", operator.advance, every), ("servers", operator.settle, 1.0)):
        threading.Thread(target=_repeat, args=(act, seconds), name=name, daemon=True).start()


def _repeat(act: Callable[[], None], seconds: float) -> None:
    """Call `act` in an endless loop. A repeated error is logged once."""
    said = ""
    while True:
        try:
            act()
            said = ""
        # Usually the API server does not answer.
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if fault != said:
                log.warning("%s: %s", threading.current_thread().name, fault, exc_info=not isinstance(error, OSError))
            said = fault
        time.sleep(seconds)


class _Site:
    """The handlers of HTTP requests. `follows` is set once the operator handles changes of objects."""

    def __init__(self, operator: Operator, lease: Lease) -> None:
        self._operator = operator
        self._lease = lease
        self.follows = threading.Event()
        self._cached: tuple[float, dict[str, Entry]] = (-1.0, {})
        self._answers = ThreadPoolExecutor(1, "answers")

    def app(self, stops: bool = False) -> web.Application:
        """Build the web application. `stops` adds kill switches to the page."""
        app = site(self._views, _ALL_ADDRESSES, lambda: self._lease.leads, stops)
        app.router.add_post("/v1/in-force", self._in_force)
        app.router.add_get("/health/{probe:live|ready}", self._health)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        if request.match_info["probe"] == "live" or self.follows.is_set():
            return web.json_response({"leads": self._lease.leads})
        return web.json_response({"error": "the operator has not read the API server yet"}, status=503)

    def _views(self) -> Sequence[View]:
        # Only the leader reads the log, so only the leader has figures to show.
        if not self._lease.leads:
            raise Unavailable(_stands_by(self._lease))
        try:
            return self._operator.views()
        except OSError as error:
            raise Unavailable(f"the API server: {type(error).__name__}") from None

    async def _in_force(self, request: web.Request) -> web.Response:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._answers, self._entries)
        # With this response, routers keep their versions.
        except Exception as error:
            return web.json_response({"error": f"the API server: {type(error).__name__}"}, status=503)
        if not found:
            return web.json_response({"error": "there is no object of kind Experiment yet: apply one"}, status=503)
        try:
            asked = Asked.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": first_fault(error)}, status=400)
        self._operator.routers.record_poll(asked.router[:100], asked.has)
        versions = {one.experiment.name: one.experiment.version for one in found.values() if one.experiment is not None}
        if len(versions) == len(found) and asked.has == versions and not asked.everything:
            return web.Response(status=204, headers=self._says_who_leads())
        texts = {name + SUFFIX: one.text for name, one in found.items()}
        texts |= {name + OFF: one.off for name, one in found.items() if one.off is not None}
        return web.json_response(texts, headers=self._says_who_leads())

    def _says_who_leads(self) -> dict[str, str]:
        return {"mtorl-leads": str(self._lease.leads).lower()}

    def _entries(self) -> dict[str, Entry]:
        now = time.monotonic()
        if now - self._cached[0] > _CACHE_SECONDS:
            # Store the time before the read, so that an old answer does not count as newer.
            self._cached = now, self._operator.in_force()
        return self._cached[1]


def _stands_by(lease: Lease) -> str:
    words, pod = "this operator is on standby and has not read the log", lease.leader.partition("_")[0]
    if not pod:
        return f"{words}; there is no leader yet: try again in a few seconds"
    return f"{words}; {pod} leads: kubectl -n {lease.namespace} port-forward pod/{pod} 8088:8080"

"""Tests that the operator answers routers while its pages are slow, as a standby, and during faults."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import httpx
import yaml

from monitoring.experiments.web import serving
from mtorl.experiment.experiment import Experiment
from pipelines.experiments.cluster_api import Entry
from pipelines.experiments.operator.lease import Lease
from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import Routers
from pipelines.experiments.operator.start import _Site
from tests.experiments import experiment
from tests.pipelines.experiments.fake_cluster import FakeCluster

SPRING = Experiment.from_dict(experiment("http://127.0.0.1:9", name="spring"))
get = partial(httpx.get, timeout=120)
# More than a process has threads by default
READERS = 40


def standing_by() -> Lease:
    made = Lease(FakeCluster())
    made.leader = "operator-b_1"
    return made


class SlowPages:
    """An operator whose pages do not answer before `done` is set."""

    def __init__(self) -> None:
        self.routers = Routers()
        self.done = threading.Event()

    def views(self) -> list[Any]:
        self.done.wait(60)
        return []

    def in_force(self) -> dict[str, Entry]:
        return {"spring": Entry(yaml.safe_dump(SPRING.model_dump(mode="json")), SPRING, None, False)}


@contextmanager
def served(operator: SlowPages, leads: bool) -> Iterator[tuple[_Site, str]]:
    lease = standing_by()
    lease.leads = leads
    site = _Site(cast(Operator, operator), lease)
    with serving(site.app(), "127.0.0.1", 0) as url:
        yield site, url.rstrip("/")


def test_routers_do_not_wait_for_page_views() -> None:
    operator = SlowPages()
    with served(operator, leads=True) as (_, url), ThreadPoolExecutor(READERS) as readers:
        pages = [readers.submit(get, url) for _ in range(READERS)]
        time.sleep(0.5)  # lets all requests reach the server

        def ask(version: str, **more: Any) -> httpx.Response:
            asked = {"router": "one", "has": {"spring": version}, **more}
            return httpx.post(f"{url}/v1/in-force", json=asked, timeout=30)

        answer = ask("v0")
        assert answer.status_code == 200 and Experiment.from_yaml(answer.json()["spring.yaml"]) == SPRING
        assert ask(SPRING.version).status_code == 204 and ask("v0", has=1).status_code == 400
        assert operator.routers.condition("spring", SPRING.version).status == "True"
        assert ask(SPRING.version, everything=True).json() == answer.json(), "a router may request everything"
        operator.done.set()
        assert {page.result().status_code for page in pages} == {200}


def test_an_internal_error_is_not_blamed_on_the_api_server() -> None:
    operator = SlowPages()
    for error, status in ((KeyError("arms"), 500), (ConnectionError(), 503)):

        def broken(error: Exception = error) -> list[Any]:
            raise error

        operator.views = broken  # type: ignore[method-assign]
        with served(operator, leads=True) as (_, url):
            answer = get(url)
            assert (answer.status_code, type(error).__name__ in answer.text) == (status, True)


def test_a_standby_answers_routers_and_names_the_leader_on_its_pages() -> None:
    operator = SlowPages()
    operator.done.set()
    with served(operator, leads=False) as (site, url):
        assert get(f"{url}/health/live").status_code == 200
        assert get(f"{url}/health/ready").status_code == 503
        site.follows.set()
        assert get(f"{url}/health/ready").status_code == 200
        for has, status in (({}, 200), ({"spring": SPRING.version}, 204)):
            answer = httpx.post(f"{url}/v1/in-force", json={"router": "one", "has": has}, timeout=60)
            assert (answer.status_code, answer.headers["mtorl-leads"]) == (status, "false")
        for path in ("/", "/experiments.json"):
            shown = get(url + path)
            assert shown.status_code == 503
            assert "port-forward pod/operator-b 8088:8080" in shown.text
        gauges = get(f"{url}/metrics").text
        assert "mtorl_operator_leads 0.0" in gauges and "{" not in gauges, "only the leader counts experiments"

"""What the operator answers over HTTP, while much else is asked of it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx

from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.routers import Routers
from pipelines.experiments.operator.start import _Site
from serving.local.ports import free_ports

READERS = 40  # more than a process has threads by default


class SlowPages:
    """An operator whose pages are being made until somebody lets them go."""

    def __init__(self) -> None:
        self.routers = Routers()
        self.done = threading.Event()

    def views(self) -> list[Any]:
        self.done.wait(30)
        return []

    def in_force(self) -> tuple[str, str]:
        return "name: spring", "v1"


def test_routers_do_not_wait_for_people_who_look_at_pages() -> None:
    operator, (port,) = SlowPages(), free_ports(1)
    site = _Site(cast(Operator, operator))
    site.leads = True
    threading.Thread(target=lambda: asyncio.run(site.serve(port)), daemon=True).start()
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/health/live").status_code == 200
        except httpx.HTTPError:
            return False

    while not up():
        time.sleep(0.05)
    with ThreadPoolExecutor(READERS) as readers:
        pages = [readers.submit(httpx.get, url, timeout=60) for _ in range(READERS)]
        time.sleep(0.5)  # all of them are being served
        answer = httpx.get(f"{url}/v1/in-force", params={"router": "one", "version": "v0"}, timeout=5)
        assert (answer.status_code, answer.text) == (200, "name: spring")
        assert httpx.get(f"{url}/v1/in-force", params={"router": "one", "version": "v1"}, timeout=5).status_code == 304
        assert operator.routers.condition("v1").status == "True"
        operator.done.set()
        assert {page.result().status_code for page in pages} == {200}

"""What traces cost a router: CPU of a decision with tracing off, for 1 % of requests and for all of them, in turn.

    python benchmarks/tracing.py --run runs/latest          # of a finished `mtorl run`, about three minutes
    python benchmarks/tracing.py --run runs/latest --quick  # one minute

Three routers over the same arms, alike but for the setting, get eight requests at once, in turn: whatever else happens
on the machine meets all alike. A round is some hundred decisions of each; the figure is the median over rounds of the
ratio to the router without traces. On a busy machine rounds differ by more than what 1 % of traces costs, so the calls
are also timed alone: those that the flow makes for one decision, until its spans are sent, in a loop.

The collector is a process of its own that answers at once. CPU is that of the router alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from _environment import ROOT, environment, finish

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.request_path.servers import router, wait_for
from benchmarks.serving import users_windows

SHARES = {"off": None, "1 %": 0.01, "100 %": 1.0}
ROUNDS = 20
BURSTS = 30  # to each router, in a round
TOGETHER = 8  # requests of a burst
DEADLINE_MS = 10_000.0  # long: no decision is to be cheaper since the machine was busy
_CALLS = 20_000  # in the loop

_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Take(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def collector() -> Iterator[str]:
    """Something that takes traces; its URL."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def routers(settings: Path, scratch: Path, endpoint: str) -> Iterator[dict[str, tuple[str, int]]]:
    """A router for each share, each with its own money and log; URL and process.

    Args:
        settings: Of a router that runs, whose arms answer.
        scratch: Folder for what they write.
        endpoint: Of the collector.
    """
    from serving.local.ports import free_ports

    running = {}
    with ExitStack() as ends:
        for (name, share), port in zip(SHARES.items(), free_ports(len(SHARES)), strict=True):
            folder = scratch / f"router-{port}"
            folder.mkdir()
            content = yaml.safe_load(settings.read_text()) | {"port": port, "deadline_ms": DEADLINE_MS}
            content |= {"ledger": str(folder / "ledger.sqlite"), "spool": str(folder / "spool")}
            content["sink"] = str(folder / "log")
            if share is not None:
                content["tracing"] = {"endpoint": endpoint, "share": share}
            (folder / "router.yaml").write_text(yaml.safe_dump(content))
            command = [sys.executable, "-P", "-m", "serving.router", "--run-config", str(folder / "router.yaml")]
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            ends.callback(process.wait)
            ends.callback(process.terminate)
            running[name] = (f"http://127.0.0.1:{port}", process)
        for url, process in running.values():
            wait_for(f"{url}/health/ready", process)
        yield {name: (f"{url}/v1/models/ads:predict", process.pid) for name, (url, process) in running.items()}


async def in_turn(paths: dict[str, tuple[str, int]], bodies: list[str], rounds: int) -> dict[str, Any]:
    """CPU milliseconds of a decision, a round after the other, and the ratios within each."""
    chosen, faults = random.Random(0), Counter[str]()
    found: dict[str, list[float]] = {name: [] for name in paths}
    async with aiohttp.ClientSession(headers={"content-type": "application/json"}) as session:

        async def decide(url: str, body: str) -> None:
            async with session.post(url, data=body) as response:
                (answer,) = (await response.json())["predictions"]
                faults.update(filter(None, [answer["fallback_reason"]]))

        for turn in range(rounds + 1):
            before = {name: cpu_ms(pid) for name, (_, pid) in paths.items()}
            for _ in range(BURSTS):
                for name in chosen.sample(list(paths), len(paths)):
                    await asyncio.gather(*(decide(paths[name][0], body) for body in chosen.sample(bodies, TOGETHER)))
            took = {name: (cpu_ms(pid) - before[name]) / (BURSTS * TOGETHER) for name, (_, pid) in paths.items()}
            if turn:  # the first is a warm-up
                print("  ".join(f"{name} {ms:.3f} ms" for name, ms in took.items()), flush=True)
                for name, ms in took.items():
                    found[name].append(ms)
    ratios = {
        name: [one / off for one, off in zip(found[name], found["off"], strict=True)] for name in paths if name != "off"
    }
    return {
        "cpu_ms": found,
        "defaults": dict(faults),
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_quartiles": {name: statistics.quantiles(values, n=4)[::2] for name, values in ratios.items()},
    }


def cpu_ms(pid: int) -> float:
    """CPU time of a process, all threads that are left: from the scheduler, which counts in nanoseconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def calls_alone(endpoint: str, calls: int) -> dict[str, float]:
    """CPU microseconds of the calls that the flow makes for a decision, all threads, until its spans are sent."""
    from serving.router.ops import tracing

    headers = [(b"host", b"router"), (b"content-type", b"application/json"), (b"content-length", b"100")]

    def traits() -> dict[str, str | int]:
        return {"decision_id": "d" * 32, "experiment": "ads", "arm": "challenger", "channels": 8}

    async def decision() -> None:
        with tracing.request("decide", headers) as traced:
            traced.watch(decision)
            for stage in ("features", "model", "ledger", "log"):
                with tracing.span(stage, traits):
                    if stage == "model":
                        tracing.outgoing([tracing.here()])
            tracing.note(traits)

    async def some(share: float | None) -> float:
        if share is not None:
            tracing.start(tracing.Tracing(endpoint=endpoint, share=share))
        count = calls // 10 if share == 1 else calls
        began = time.process_time()
        for i in range(count):
            await decision()
            if share == 1 and i % 100 == 99:
                await asyncio.sleep(0.1)  # else the queue would be full, and what is dropped costs less
        await tracing.stop()
        return (time.process_time() - began) / count * 1e6

    asyncio.run(some(1.0))  # imports
    return {name: min(asyncio.run(some(share)) for _ in range(3)) for name, share in SHARES.items()}


def tracing_table(figures: Figures) -> str:
    """CPU of a decision by the share of requests that are traced."""
    off = statistics.median(figures["cpu_ms"]["off"])
    rows = []
    for name, alone in figures["calls_us"].items():
        low, high = figures["ratio_quartiles"].get(name, (1, 1))
        ratio = "1" if name == "off" else f"{figures['ratio'][name]:.3f} ({low:.3f} to {high:.3f})"
        cpu = statistics.median(figures["cpu_ms"][name])
        rows.append([name, f"{cpu:.2f}", ratio, f"{alone:.1f}", f"{100 * alone / (1000 * off):.2f} %"])
    heads = [
        "traced",
        "CPU ms a decision",
        "/ off, median of rounds (quartiles)",
        "tracing's calls alone, CPU us a decision",
        "of a decision without traces",
    ]
    rounds = len(figures["cpu_ms"]["off"])
    intro = f"{rounds} rounds of {BURSTS} times {TOGETHER} requests to each router; CPU of the router alone.\n\n"
    return intro + table(heads, rows) + measured_on(figures, "tracing.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/latest", help="folder of a finished run")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()
    run = Path(arguments.run).resolve()
    bodies = users_windows(run)[2]
    figures: dict[str, Any] = {"quick": arguments.quick}
    with tempfile.TemporaryDirectory() as folder, collector() as endpoint:
        figures["calls_us"] = calls_alone(endpoint, _CALLS // 10 if arguments.quick else _CALLS)
        with router(run, Path(folder), on_redis=False) as path:
            settings = Path(folder) / "run" / "serving" / "router.yaml"
            assert path.url
            with routers(settings, Path(folder), endpoint) as paths:
                figures |= asyncio.run(in_turn(paths, bodies, 3 if arguments.quick else ROUNDS))
    figures["environment"] = environment("opentelemetry-sdk", "kserve")
    print(tracing_table(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()

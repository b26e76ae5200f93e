"""The files that a piece of data passes, in the order in which it enters each: what docs/architecture.md draws.

    python scripts/walk.py row                       # a raw row becomes a gradient
    python scripts/walk.py request runs/latest       # a request becomes an answer, in a finished run

A file counts when one of its functions runs on the way, whichever thread runs it. `row` ends at the first gradient of a
training. `request` is the second decision of one user, through the router's process and the policy handler that
TorchServe would call; starting up does not count, and neither does what a router does by the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("mtorl", "features", "serving", "components", "pipelines", "monitoring", "cli")
sys.path.insert(0, str(ROOT))

entered: dict[str, None] = {}
"""Files in the order of their first call, as paths from the root."""
_paths: dict[str, str | None] = {}


def trace(frame: FrameType, event: str, _: Any) -> None:
    """A profile function that notes each file of ours when one of its functions is called."""
    if event != "call" or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or class is no step
        return
    name = frame.f_code.co_filename
    if name not in _paths:
        path = Path(name)
        ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
        _paths[name] = path.relative_to(ROOT).as_posix() if ours else None
    if (path_of_ours := _paths[name]) is not None and frame.f_code.co_name not in ("<lambda>", "__post_init__"):
        entered.setdefault(path_of_ours, None)


@contextmanager
def tracing() -> Iterator[None]:
    """Trace this thread, and those that start inside the block."""
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


class _FirstGradient(Exception):
    """Raised in place of the first gradient: the walk is over."""


def row() -> list[str]:
    """The files from a raw CSV to the first gradient, through the steps of the training pipeline."""
    import torch

    from components.build_features.component import build_features
    from components.fingerprint.component import fingerprint
    from components.ingest.component import ingest
    from components.train_challenger.component import train_challenger
    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    class Folder:
        def __init__(self, path: Path) -> None:
            self.path, self.metadata = str(path), dict[str, Any]()

    def stop(*_: Any, **__: Any) -> None:
        raise _FirstGradient

    torch.Tensor.backward = stop  # type: ignore[method-assign, assignment]

    def walk(scratch: Path) -> None:
        log, windows, definitions = (Folder(scratch / name) for name in ("log", "windows", "definitions"))
        content = fingerprint.python_func(str(raw), "simulator")
        ingest.python_func(
            str(raw), "simulator", "fail", 0, 0, content, "", "", 0, "", log, Folder(scratch / "quarantine.csv")
        )
        build_features.python_func(log, "simulator", "", windows, definitions)
        with contextlib.suppress(_FirstGradient):
            train_challenger.python_func(windows, 1, 0, 0.5, "", "", "", "", Folder(scratch / "model"), None)

    with tempfile.TemporaryDirectory() as name:
        raw = Path(name, "raw.csv")
        Simulator(SimulatorConfig(users=200, seed=1)).log().to_csv(raw, index=False)
        walk(Path(name, "1"))  # imports everything: what runs at an import is no step either
        with tracing():
            walk(Path(name, "2"))
    return list(entered)


def request(run: Path) -> dict[str, list[str]]:
    """The files from the socket of the router to its answer, and those of the arm that it asks."""
    import yaml

    from serving.handlers.policy_handler import PolicyHandler
    from serving.logs import messages

    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        arms = {}
        for arm in ("incumbent", "challenger"):
            arms[arm] = PolicyHandler()
            arms[arm].load(run / "artifacts" / arm)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _arm_server(arms))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        experiment = yaml.safe_load((run / "serving.yaml").read_text()) | {"stage": "50%"}  # it may be over by now
        for arm in experiment["arms"]:
            arm["endpoint"] = f"http://127.0.0.1:{server.server_port}/{arm['name']}"
        (scratch / "experiment.yaml").write_text(yaml.safe_dump(experiment))
        model = json.loads((run / "artifacts" / "challenger" / "model.json").read_text())
        settings = {
            "port": 0,
            "experiment": "experiment.yaml",
            "dataset": str((run / "artifacts" / "challenger" / "dataset.yaml").absolute()),
            "feature_repo": str((run / "features").absolute()),
            "ledger": "ledger.sqlite",
            "spool": "spool",
            "cost_cap": model["cost_cap"],
            "auth": {"kind": "none"},
            "deadline_ms": 5000,
        }
        (scratch / "router.yaml").write_text(yaml.safe_dump(settings))
        program = [sys.executable, __file__, "router", str(scratch)]
        router = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        try:
            assert router.stderr is not None
            said = messages(iter(router.stderr.readline, ""))
            url = next(message for message in said if message.startswith("router ready")).split()[-1]
            spec = yaml.safe_load((run / "artifacts" / "challenger" / "dataset.yaml").read_text())
            context = {c["name"]: 1.0 if c["kind"] == "numeric" else "x" for c in spec["context"]}
            _decide(url, context)
            walks, arm_walks = [], []
            for _ in range(5):  # of several walks, what they share: the rest is what the router does by the clock
                _order(scratch / "forget")
                entered.clear()
                _decide(url, context)
                _order(scratch / "tell")
                walks.append(json.loads((scratch / "files.json").read_text()))
                arm_walks.append(list(entered))
        finally:
            router.terminate()
            router.wait()
            server.shutdown()
    return {"router": _shared(walks), "arm": _shared(arm_walks)}


def _shared(walks: list[list[str]]) -> list[str]:
    return [name for name in walks[-1] if all(name in walk for walk in walks)]


def _order(path: Path) -> None:
    """Give the router an order, and wait until it is carried out."""
    path.touch()
    while path.exists():
        time.sleep(0.01)


def _decide(url: str, context: dict[str, Any]) -> None:
    body = {"instances": [{"user_id": "u1", "campaign_id": "spring", "context": context}]}
    question = urllib.request.Request(
        f"{url}/v1/models/ads:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(question, timeout=60) as answer:
        decision = json.loads(answer.read())["predictions"][0]
    assert decision["fallback_reason"] is None, decision


def _arm_server(arms: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    class Context:
        model_name = "challenger"

        def set_response_content_type(self, *_: Any) -> None: ...
        def set_response_status(self, *_: Any) -> None: ...
        def get_request_header(self, *_: Any) -> None: ...
        def get_request_id(self, _: int) -> str:
            return "r"

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sys.setprofile(trace)
            (answer,) = arms[self.path.strip("/")].handle([{"body": body}], Context())
            sys.setprofile(None)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    return Server


def router(scratch: Path) -> None:
    """The router's process, traced; the files `forget` and `tell` in the folder are orders to it."""

    def obey() -> None:
        while True:
            time.sleep(0.02)
            if (scratch / "forget").exists():
                entered.clear()
                (scratch / "forget").unlink()
            if (scratch / "tell").exists():
                (scratch / "files.json").write_text(json.dumps(list(entered)))
                (scratch / "tell").unlink()

    threading.Thread(target=obey, daemon=True).start()
    sys.argv = ["router", "--run-config", str(scratch / "router.yaml")]
    from serving.router.__main__ import main

    with tracing():
        main()


def main() -> None:
    """Print a walk, a file a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("walk", choices=["row", "request", "router"])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/latest"), help="folder of a finished run")
    arguments = parser.parse_args()
    if arguments.walk == "router":  # the traced process of `request`
        router(arguments.run)
        return
    parts = {"": row()} if arguments.walk == "row" else request(arguments.run)
    for part, files in parts.items():
        print(*([f"# {part}"] if part else []), *files, sep="\n")
    print(f"{len(set().union(*parts.values()))} files", file=sys.stderr)


if __name__ == "__main__":
    main()

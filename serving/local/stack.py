"""Runs the whole request path on one host: the models of both arms, and the A/B router in front of them.

    with LocalStack("runs/latest") as stack:
        requests.post(f"{stack.url}/v1/models/ads:predict", json={"instances": [...]})

    LocalStack("runs/latest", Own({"first-day.yaml": Path("first-day.yaml")}, "first-day"), models_port=8085)

A stack serves the models of a finished run, with the run's experiment or with your own experiments.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.runtime.files import replacing
from mtorl.runtime.http import send_request
from mtorl.runtime.locks import acquire
from serving import logs, messages
from serving.decision_log.segments import is_uploaded
from serving.local.child_process import ChildProcess
from serving.local.model_server import StackError, wait_until
from serving.local.predictor import LocalPredictor
from serving.local.torchserve import TorchServe

Runtime = Literal["torchserve", "predictor"]
RUNTIMES: dict[Runtime, str] = {"torchserve": "TorchServe", "predictor": "the KServe predictor"}

_LOCK = "stack.lock"
_ROUTER_SECONDS = 120.0
_DRAIN_SECONDS = 15.0
_FOLLOW_SECONDS = 10.0
_UPLOAD_SECONDS = 60.0
# -P keeps a run's folders features/ and serving/ off the import path.
ROUTER = ("-P", "-m", "serving.router")
_READY = re.compile(r"^router ready (http://\S+)", re.MULTILINE)
_WAITS = re.compile(r"^the router waits: (.+)", re.MULTILINE)


@dataclass(frozen=True)
class Own:
    """Your own experiments, to serve instead of the run's, and the folder for their state."""

    experiments: Mapping[str, Path]  # the router's file name (*.yaml) -> your file
    state: Path  # folder for the ledger, decision log and logs


class LocalStack:
    """The model server and the router of a run, which stop when this process stops.

    Args:
        own: Experiments to serve; None for the run's own experiment.
        router_port: Port of the router on 127.0.0.1; 0 selects a free port.
        models_port: Port of the models on 127.0.0.1. If it is 0, they answer on a Unix socket.
        runtime: Model server. "predictor" needs no Java.
        ledger: URL of the Redis with the budget ledger; None for a ledger in a local file.
        settings: Settings of the router that replace the defaults for a laptop.
    """

    def __init__(
        self,
        run_dir: str | Path,
        own: Own | None = None,
        *,
        router_port: int = 0,
        models_port: int = 0,
        runtime: Runtime = "torchserve",
        ledger: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_dir = Path(run_dir).resolve()
        self.serving = own.state.resolve() if own else self.run_dir / "serving"
        self._own = own
        self.lake = (self.run_dir if self.serving == self.run_dir / "serving" else self.serving) / "lake"
        self.experiment = self.serving / ("experiments" if own else "experiment.yaml")
        self._store = self.serving / "model-store"
        server = {"torchserve": TorchServe, "predictor": LocalPredictor}[runtime]
        self.models = server(self._store, self.serving / runtime, port=models_port)
        self.url = ""
        self._router_port = router_port
        self._ledger = ledger or str(self.serving / "ledger.sqlite")
        self._settings = settings or {}
        self._router: ChildProcess | None = None
        self._lock: int | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Id of the process group of each part that is running."""
        parts = {"models": self.models.pid, "router": self._router.pid if self._router else None}
        return {name: pid for name, pid in parts.items() if pid}

    def start(self) -> None:
        """Start the models and the router, and return when the router accepts requests.

        Raises StackError if a file of the run is invalid, another stack uses the same state, or a server fails.
        """
        if self._router:
            return
        try:
            lock = self.claim()
            config = self._write_config()
            _link(archives(self.run_dir, self.serving), self._store)
            self._running.enter_context(self.models)
            if self._own is None:
                self._write_endpoints()
            else:
                _link(self._own.experiments, self.experiment)
            self._start_router(config, lock)
        except BaseException:  # includes Ctrl-C
            self.stop()
            raise

    def claim(self) -> int:
        """Lock the state until this stack stops; returns the lock. Raises StackError."""
        if self._lock is None:
            self.serving.mkdir(parents=True, exist_ok=True)
            self._lock = self._running.enter_context(_hold_lock(self.serving / _LOCK))
        return self._lock

    def stop(self) -> None:
        """Stop the router, and then the models. Idempotent."""
        self._router = self._lock = None
        self._running.close()  # in reverse order of their start, even after a failure

    def restart_models(self) -> None:
        """Restart the model server with the present `archives`."""
        self.models.stop()
        _link(archives(self.run_dir, self.serving), self._store)
        self.models.start()
        if self._own is None:  # the restart has changed the models' address
            self._write_endpoints()

    def check(self) -> None:
        """Raise StackError with the end of the log if a part is not running."""
        self.models.check()
        if self._router is None:
            raise StackError("the router is not started")
        if not self._router.alive():
            raise StackError(messages.ENDED(part="the router", log=self._router.tail()))

    def wait_for_experiment(self) -> None:
        """Wait until the router has applied the present experiment files. Raises StackError at a timeout."""
        files = self.experiment.iterdir() if self.experiment.is_dir() else [self.experiment]
        wanted = {one.name: one.version for one in map(Experiment.load, files)}
        late = f"the router does not follow {self.experiment}; see {self.serving / 'router.log'}"
        wait_until(lambda: self._in_force() == wanted, self.check, _FOLLOW_SECONDS, lambda: late)

    def wait_for_lake(self) -> None:
        """Wait until the lake has all logged records. Raises StackError at a timeout."""
        late = messages.NOT_UPLOADED(lake=self.lake, log=self.serving / "router.log")
        wait_until(lambda: is_uploaded(self.serving / "spool"), self.check, _UPLOAD_SECONDS, lambda: late)

    def _in_force(self) -> dict[str, str]:
        try:
            return dict(json.loads(send_request(f"{self.url}/health/ready", seconds=5).content)["experiments"])
        except (OSError, ValueError, LookupError):
            return {}

    def wait(self, each_second: Callable[[], None] = lambda: None) -> None:
        """Block until a part stops, then raise the StackError of `check`."""
        while True:
            self.check()
            each_second()
            time.sleep(1.0)

    def _write_endpoints(self) -> None:
        path = self.experiment
        try:
            experiment = yaml.safe_load(path.read_text())
            for arm in experiment["arms"]:
                if arm.get("policy") is not None:  # an arm without a server
                    continue
                if arm["name"] not in self.models.models:
                    raise StackError(f"{path}: arm {arm['name']!r} has no {arm['name']}.mar in the model store")
                arm["endpoint"] = self.models.endpoint(arm["name"])
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise StackError(f"{path}: not an experiment file ({error!r})") from error
        _write_yaml(path, experiment)

    def _write_config(self) -> Path:
        artifact = self.run_dir / "artifacts" / "challenger"
        try:
            model = json.loads((artifact / "model.json").read_text())
            config = {
                "host": "127.0.0.1",
                "port": self._router_port,
                "model_name": "ads",
                "experiment": str(self.experiment),
                "feature_repo": str(self.run_dir / "features"),
                "feature_service": model["feature_service"],
                "ledger": self._ledger,
                "spool": str(self.serving / "spool"),
                "lake": str(self.lake),
                # People want to see results at once.
                "upload_seconds": 1.0,
                "dataset": str(artifact / "dataset.yaml"),
                "cost_cap": model["cost_cap"],
                "auth": {"kind": "none"},  # the router listens on 127.0.0.1 only
                "deadline_ms": 500.0,  # long, because all parts share the cores
                **self._settings,
            }
        except (OSError, ValueError, KeyError) as error:
            raise StackError(f"{artifact}: not a model artifact ({error!r})") from error
        path = self.serving / "router.yaml"
        _write_yaml(path, config)
        return path

    def _start_router(self, config: Path, lock: int) -> None:
        self._router = router = ChildProcess(
            [sys.executable, *ROUTER, "--run-config", str(config)],
            log=self.serving / "router.log",
            env=_environment(),
            grace=_DRAIN_SECONDS,
            lock=lock,
        )
        self._running.callback(router.stop)

        def said(pattern: re.Pattern[str]) -> str:
            found = pattern.search("\n".join(logs.messages(router.output().splitlines())))
            return found[1] if found else ""

        def check() -> None:
            if why := said(_WAITS):  # on a laptop, no other process will end the wait
                raise StackError(f"the router can't start: {why}")
            if not router.alive():
                raise StackError(f"the router did not start; {router.tail()}")

        late = f"the router was not ready in {_ROUTER_SECONDS:.0f} s"
        wait_until(lambda: bool(said(_READY)), check, _ROUTER_SECONDS, lambda: f"{late}; {router.tail()}")
        self.url = said(_READY)


def runs(state: Path) -> bool | None:
    """Whether a stack with this state is running; None if none was ever started."""
    lock = (state / "router.yaml").resolve().parent / _LOCK
    return _is_alive(lock.read_text()) if lock.exists() else None


def archives(run: Path, state: Path) -> dict[str, Path]:
    """Return the .mar file of each model: the state's own file, or else the run's."""
    return {one.name: one for folder in (run / "model-store", state / "models") for one in folder.glob("*.mar")}


def _link(files: Mapping[str, Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in files:
            old.unlink()
    for name, file in files.items():
        with replacing(folder / name) as unfinished:
            unfinished.symlink_to(file.resolve())


def _environment() -> dict[str, str]:
    """Return the environment without PROMETHEUS_MULTIPROC*, which Feast sets, and which redirects metrics to files."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_MULTIPROC")}
    return {**inherited, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _hold_lock(path: Path) -> Iterator[int]:
    """Lock the state folder, until this process and its router's supervisor have exited."""
    deadline = time.monotonic() + _DRAIN_SECONDS + 5
    while True:
        try:
            lock = acquire(path)
            break
        except BlockingIOError:
            owner = path.read_text()
            # The router of a killed process may still be shutting down.
            if _is_alive(owner) or time.monotonic() > deadline:
                raise StackError(f"{path.parent} is in use already, by process {owner}") from None
            time.sleep(0.1)
    try:
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield lock
    finally:
        os.close(lock)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):  # ValueError: the lock file has no process id yet
        return False
    except PermissionError:
        pass
    return True


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    with replacing(path, durable=True) as unfinished:
        unfinished.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

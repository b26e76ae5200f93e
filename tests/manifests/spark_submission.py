"""Spark submits the application of the component spark-features to a stand-in for the Kubernetes API.

The objects that Spark created are then in `ApiServer.store`, and what its driver asked for in `ApiServer.asked`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class ApiServer(ThreadingHTTPServer):
    """A stand-in for the Kubernetes API on a free port, in a thread of its own; for a `with` block."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store: dict[str, dict[str, Any]] = {}  # objects by path
        self.asked: list[tuple[str, str]] = []  # verb and resource of each request
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    def pods(self, role: str) -> list[dict[str, Any]]:
        """The pods of a role, "driver" or "executor"."""
        objects = list(self.store.values())
        return [o for o in objects if o["kind"] == "Pod" and o["metadata"]["labels"]["spark-role"] == role]


def _asked(method: str, url: str) -> tuple[str, str]:
    """Verb and resource of a request in a namespace, as a Role names them."""
    resource, _, name = urlsplit(url).path.partition("/namespaces/")[2].partition("/")[2].partition("/")
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    look = "watch" if "watch=true" in url else "get" if name else "list"
    return verbs.get(method, look), resource


class _Handler(BaseHTTPRequestHandler):
    """As much of the Kubernetes API as Spark asks for: objects are stored as they come, executors are said to run."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        api: ApiServer = self.server  # type: ignore[assignment]
        path, length = urlsplit(self.path).path, int(self.headers.get("Content-Length") or 0)
        api.asked.append(_asked(self.command, self.path))
        answer: Any = json.loads(self.rfile.read(length)) if length else None
        if self.command in ("POST", "PATCH") and answer:
            answer["metadata"].setdefault("uid", f"uid-{len(api.store)}")
            api.store[path if self.command == "PATCH" else f"{path}/{answer['metadata']['name']}"] = answer
        elif "watch=true" in self.path:
            self.close_connection = True
            answer = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
        elif path.endswith("/pods"):
            items = [{**o, "status": {"phase": "Running"}} for o in api.pods("executor")]
            answer = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        else:
            answer = api.store.get(path)
        body = json.dumps(answer or {"kind": "Status", "status": "Success"}).encode()
        self.send_response(200 if answer or self.command == "DELETE" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def submit(api: ApiServer, schedule: dict[str, Any], folder: Path) -> None:
    """Submit as the operator does, then run the driver as its pod would, with an application that does nothing.

    Args:
        api: Where to submit.
        schedule: The ScheduledSparkApplication.
        folder: For files.
    """
    import pyspark

    app, master = schedule["spec"]["template"], f"http://127.0.0.1:{api.server_address[1]}"
    home = Path(pyspark.__file__).parent
    environment = {**os.environ, "SPARK_HOME": str(home), "KUBECONFIG": "/nowhere", "PYSPARK_PYTHON": sys.executable}
    command = [str(home / "bin" / "spark-submit"), "--master", f"k8s://{master}"]
    conf = _operators_conf(schedule, folder)
    pairs = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
    submitted = subprocess.run(
        [*command, "--deploy-mode", "cluster", "--name", "mtorl-features-1", *pairs, app["mainApplicationFile"],
         *app["arguments"]],
        capture_output=True, text=True, env=environment, timeout=200,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr

    api.asked.clear()  # so far the operator's account has asked, from here on it is the driver's
    (properties,) = [
        o["data"]["spark.properties"]
        for o in api.store.values()
        if o["kind"] == "ConfigMap" and "spark.properties" in o["data"]
    ]
    (folder / "spark.properties").write_text(properties)
    application = folder / "application.py"
    application.write_text(
        "import pathlib, time\nfrom pyspark import SparkContext\ncontext = SparkContext()\n"
        f"while not pathlib.Path({str(folder / 'end')!r}).exists():\n    time.sleep(0.1)\n"
        "context.stop()\n"
    )
    here = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
            "spark.kubernetes.driver.master": master, "spark.driver.port": "0", "spark.driver.blockManager.port": "0",
            "spark.kubernetes.executor.podTemplateFile": conf["spark.kubernetes.executor.podTemplateFile"]}  # fmt: skip
    pairs = [word for key, value in here.items() for word in ("--conf", f"{key}={value}")]
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [*command, "--deploy-mode", "client", "--properties-file", str(folder / "spark.properties"), *pairs,
             str(application)],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 200
        while not api.pods("executor") and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        (folder / "end").touch()
        driver.wait(timeout=100)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    assert api.pods("executor"), (folder / "driver.log").read_text()


def _operators_conf(schedule: dict[str, Any], folder: Path) -> dict[str, str]:
    """The settings that the operator (2.5.2) gives to spark-submit for the fields that the application has."""
    app, labels = schedule["spec"]["template"], schedule["metadata"]["labels"]
    conf = {
        "spark.kubernetes.namespace": schedule["metadata"]["namespace"],
        "spark.kubernetes.container.image": app["image"],
        "spark.kubernetes.submission.waitAppCompletion": "false",
        **app["sparkConf"],
        "spark.kubernetes.driver.pod.name": "mtorl-features-1-driver",
        "spark.executor.instances": app["executor"]["instances"],
    }
    for role in ("driver", "executor"):
        said = app[role]
        known = {"instances", "template", "serviceAccount", "cores", "coreRequest", "coreLimit", "memory"}
        assert set(said) <= known, "teach this function what the operator does with it"
        template = folder / f"{role}.yaml"
        template.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **said["template"]}))
        conf |= {
            f"spark.kubernetes.{role}.podTemplateFile": str(template),
            f"spark.kubernetes.{role}.podTemplateContainerName": f"spark-kubernetes-{role}",
            f"spark.kubernetes.authenticate.{role}.serviceAccountName": said["serviceAccount"],
            f"spark.{role}.cores": said["cores"],
            f"spark.kubernetes.{role}.request.cores": said.get("coreRequest", said["cores"]),
            f"spark.{role}.memory": said["memory"],
            f"spark.kubernetes.{role}.limit.cores": said["coreLimit"],
            **{f"spark.kubernetes.{role}.label.{key}": value for key, value in labels.items()},
        }
    return {key: str(value) for key, value in conf.items()}

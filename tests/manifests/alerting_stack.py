"""A local Prometheus and Alertmanager with the project's rules, and fake receivers of alerts.

Only intervals, addresses and secrets differ from the project's configuration.
"""

import base64
import copy
import email
import json
import re
import shutil
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from monitoring.experiments.web import serving
from serving.local.ports import free_ports
from tests.repository import ROOT
from tests.waiting import eventually

PLAIN = ROOT / "manifests" / "alertmanager" / "alertmanager.yml"
RULES = ROOT / "manifests" / "base" / "monitoring" / "rules.yaml"
NAMESPACE = "shop"
SECRETS = "/etc/alertmanager/secrets/mtorl-alerting/"
PASSWORD = "not a real one"
_QUICK = "500ms"  # used for all intervals of Prometheus and Alertmanager
# The group wait of tickets. It exceeds the time between the evaluations of two rules on a busy machine.
_WAIT = "2s"


def program(*names: str) -> str:
    """Return a program's path, or fail the test if the program is missing.

    A skipped test could hide a broken rule.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.fail(f"{names[0]} is missing; apt install prometheus prometheus-alertmanager")


@dataclass
class People:
    pages: list[dict[str, Any]] = field(default_factory=list)
    slack: list[dict[str, Any]] = field(default_factory=list)  # Slack attachments
    mail: list[Message] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)  # user and password of each sender

    def titles(self) -> list[str]:
        return [str(message["title"]) for message in self.slack]

    def waits(self) -> set[tuple[str, str]]:
        """Return channel and alert name of each notification that isn't resolved yet."""
        told = [("pager", page["groupLabels"]["alertname"], page["status"]) for page in self.pages]
        titles = [("slack", title) for title in self.titles()] + [("mail", str(one["Subject"])) for one in self.mail]
        told += [(channel, title.split()[2], title.split(":")[0].strip("[").lower()) for channel, title in titles]
        last = {(channel, name): status for channel, name, status in told}
        return {of for of, status in last.items() if status == "firing"}


@dataclass
class Stack:
    people: People
    metrics: dict[str, str]  # by "router", "monitor" (exporter) and "cluster" (kube-state-metrics)
    prometheus: str = ""
    alertmanager: str = ""

    def evaluations(self, times: int) -> None:
        for _ in range(times):
            begun = time.time()
            eventually(lambda begun=begun: all(at > begun for at in self._evaluated()))  # type: ignore[misc]

    def _evaluated(self) -> list[float]:
        groups = get(f"{self.prometheus}/api/v1/rules")["data"]["groups"]
        for group in groups:
            assert all(rule["health"] in ("ok", "unknown") for rule in group["rules"]), group
        return [datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in groups]

    def alerts(self) -> list[dict[str, str]]:
        found = get(f"{self.prometheus}/api/v1/alerts")["data"]["alerts"]
        return [{**alert["labels"], "state": alert["state"]} for alert in found]

    def suppressed(self) -> set[str]:
        """Return the alerts that Alertmanager does not send because another alert inhibits them."""
        found = get(f"{self.alertmanager}/api/v2/alerts?active=true&inhibited=true")
        return {alert["labels"]["alertname"] for alert in found if alert["status"]["inhibitedBy"]}


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def hurried(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups = copy.deepcopy(groups)
    for group in groups:
        group.pop("interval", None)
        for rule in group["rules"]:
            for name in {"for", "keep_firing_for"} & rule.keys():
                rule[name] = _QUICK
    return groups


def configuration(folder: Path, secrets: Mapping[str, str]) -> dict[str, Any]:
    for name, secret in secrets.items():
        (folder / name).write_text(secret)
    shutil.copy(PLAIN.with_name("messages.tmpl"), folder)
    config: dict[str, Any] = yaml.safe_load(PLAIN.read_text().replace(SECRETS, f"{folder}/"))
    return config


def _hurried_configuration(folder: Path, http: str, smtp: str) -> dict[str, Any]:
    secrets = {"webhook-url": f"{http}/pager", "slack-url": f"{http}/slack", "smtp-password": PASSWORD}
    text = json.dumps(configuration(folder, secrets))
    config: dict[str, Any] = json.loads(re.sub(r'("group_(?:wait|interval)": )"\w+"', rf'\1"{_QUICK}"', text))
    config["route"]["routes"][0]["group_wait"] = _WAIT
    for receiver in config["receivers"]:
        for mail in receiver.get("email_configs", []):
            mail |= {"smarthost": smtp, "require_tls": False}
    return config


@contextmanager
def people() -> Iterator[tuple[People, str]]:
    told = People()
    with serving(_http(told, {}), "127.0.0.1", 0) as url:
        yield told, url.rstrip("/")


@contextmanager
def running(folder: Path, groups: list[dict[str, Any]], healthy: Mapping[str, str]) -> Iterator[Stack]:
    told, metrics = People(), dict(healthy)
    with ExitStack() as until:
        http = until.enter_context(serving(_http(told, metrics), "127.0.0.1", 0)).removeprefix("http://").rstrip("/")
        smtp = until.enter_context(_serving(_MailServer(("127.0.0.1", 0), _mail(told))))
        stack = Stack(told, metrics)
        stack.alertmanager = until.enter_context(
            alertmanager(folder, _hurried_configuration(folder, f"http://{http}", smtp))
        )
        jobs = {"mtorl-router": "/router", "mtorl-monitor": "/monitor", "kube-state-metrics": "/cluster"}
        scrapes = [scrape(job, path, http, NAMESPACE) for job, path in jobs.items()]
        stack.prometheus = until.enter_context(prometheus(folder, hurried(groups), scrapes, stack.alertmanager, _QUICK))
        yield stack


def scrape(job: str, path: str, target: str, namespace: str) -> dict[str, Any]:
    labels = {"namespace": namespace, "pod": f"{job}-0"}
    return {"job_name": job, "metrics_path": path, "static_configs": [{"targets": [target], "labels": labels}]}


@contextmanager
def alertmanager(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [program("prometheus-alertmanager", "alertmanager"), f"--config.file={folder / 'alertmanager.yml'}"]
    command += [f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address=127.0.0.1:{port}"]
    with process([*command, "--cluster.listen-address="], folder / "alertmanager.log", port) as url:
        yield url


@contextmanager
def prometheus(
    folder: Path, groups: list[dict[str, Any]], scrapes: list[dict[str, Any]], alertmanager: str, interval: str
) -> Iterator[str]:
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
        "scrape_configs": scrapes,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--rules.alert.resend-delay=1s"]
    command += [f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address=127.0.0.1:{port}"]
    with process(command, folder / "prometheus.log", port) as url:
        yield url


@contextmanager
def process(command: list[str], log: Path, port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def ready() -> bool:
        assert started.poll() is None, f"{command[0]} exited: {log.read_text()[-2000:]}"
        return bool(urllib.request.urlopen(f"{url}/-/ready", timeout=20).status == 200)

    try:
        eventually(ready)
        yield url
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _http(people: People, metrics: dict[str, str]) -> web.Application:
    async def scraped(request: web.Request) -> web.Response:
        text = metrics[request.path.strip("/")]
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def told(request: web.Request) -> web.Response:
        said = await request.json()
        if request.path == "/pager":
            people.pages.append(said)
        else:
            people.slack.extend(said["attachments"])
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.get("/{name}", scraped), web.post("/{name}", told)])
    return app


class _MailServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def _mail(people: People) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 here")
            while line := self.rfile.readline().decode().strip():
                verb = line.split()[0].upper()
                if verb == "EHLO":
                    self._say("250-here\r\n250 AUTH PLAIN")
                elif verb == "AUTH":
                    _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
                    people.logins.append((user, password))
                    self._say("235 ok")
                elif verb == "DATA":
                    self._say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    people.mail.append(email.message_from_bytes(text))
                    self._say("250 ok")
                else:
                    self._say("221 bye" if verb == "QUIT" else "250 ok")

        def _say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    return Handler

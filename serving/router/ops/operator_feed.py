"""Polls the operators every second for the experiments in force, and keeps them while none answers.

    feed = OperatorFeed("http://mtorl-operator:8080", ExperimentFiles(mounted, tables), last_good, "mtorl-router-0")
    live = LiveExperiments(feed, ...)
    feed.ask(live.versions)            # every second; then `live.refresh`

A kubelet may take minutes to bring a changed ConfigMap to a pod: too long for a kill switch. So the router polls the
addresses behind the operators' name, one after the other, until the leader answers; if none leads, another answer
counts. A dead operator costs two seconds at most. The request reports which versions this router has.

While none answers, the router goes on with what it has. A mounted ConfigMap counts if it was written later than that: a
person can still change it by hand.
"""

import logging
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import orjson

from mtorl.experiment.experiment import ExperimentError
from mtorl.runtime.http import StatusError, ask
from serving.router.ops.live_experiments import OFF, ExperimentFiles, signature_of_tables

log = logging.getLogger(__name__)
_ANSWER_SECONDS = 2.0
_SILENT_SECONDS = 10.0  # without an answer, until the mounted file counts


class OperatorFeed:
    """Polls the operators; the ConfigMap is `mounted`, and `last_good` was in force before this start."""

    def __init__(self, operator: str, mounted: ExperimentFiles, last_good: Path, router: str) -> None:
        self._url = urlsplit(f"{operator.rstrip('/')}/v1/in-force")
        self._mounted = self._tables_of = mounted
        self._router = router
        self._answered = time.monotonic()
        self._said = ""
        self._texts: dict[str, bytes] | None = None
        self._known = 0.0  # when it was requested or written, by the router's clock
        if not self._answers({}):
            self._take_later(ExperimentFiles(last_good))
            self._take_later(self._mounted)

    @property
    def signature(self) -> object:
        """Changes with what is in force, and with budget tables."""
        return self._texts, signature_of_tables([self.folder("_.yaml")])

    def folder(self, name: str) -> Path:
        """As in `Source`."""
        return self._tables_of.folder(name)

    def texts(self) -> dict[str, bytes]:
        """As in `Source`."""
        if self._texts is None:
            asked = self._url.geturl()
            raise ExperimentError(f"nothing is in force yet, and no file says what is: {asked} says: {self._said}")
        return self._texts

    def ask(self, versions: Mapping[str, str], refused: bool = False) -> None:
        """Poll, and report this router's versions; `refused` asks for all, to notice the end of a refusal."""
        if not self._answers(versions, refused) and time.monotonic() - self._answered > _SILENT_SECONDS:
            self._take_later(self._mounted)

    def _answers(self, versions: Mapping[str, str], everything: bool = False) -> bool:
        has = {"router": self._router, "has": dict(versions), "everything": everything}
        asked, fault = time.time(), ""
        answered, texts = False, None
        try:
            for address in _addresses(self._url):
                try:
                    answer = ask(f"{self._url.scheme}://{address}{self._url.path}", has, seconds=_ANSWER_SECONDS)
                    texts = None if answer.status == HTTPStatus.NO_CONTENT else _texts(answer.content)
                except (OSError, ValueError) as error:
                    fault = _words(error)
                else:
                    answered = True
                    if answer.headers.get("mtorl-leads") == "true":
                        break
        except OSError as error:  # its name has no address
            fault = _words(error)
        if not answered:
            return self._silent(fault)
        if texts is not None:  # None: in force is what this router has
            self._texts, self._tables_of = texts, self._mounted
        self._answered, self._said, self._known = time.monotonic(), "", asked
        return True

    def _silent(self, why: str) -> bool:
        if why != self._said:
            log.warning("no operator says what is in force, and the router goes on with what it has: %s", why)
            self._said = why
        return False

    def _take_later(self, files: ExperimentFiles) -> None:
        try:
            if (written := files.written) > self._known:
                self._texts, self._known, self._tables_of = dict(files.texts()), written, files
        except ExperimentError as error:
            log.error("what is in force can't be read: %s", error)


def _addresses(url: SplitResult) -> list[str]:
    """Host and port of all operators; raises OSError."""
    found = socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)
    places = [(str(address[0]), int(address[1])) for *_, address in found]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places]


def _words(error: Exception) -> str:
    """Why there is no answer, in the operator's own words if it sends some."""
    if not isinstance(error, StatusError):
        return f"{type(error).__name__}: {error}"
    try:
        return str(orjson.loads(error.content)["error"])
    except (ValueError, KeyError, TypeError):
        return str(error)


def _texts(answer: bytes) -> dict[str, bytes]:
    """Name and YAML of each experiment; raises ValueError."""
    found = orjson.loads(answer)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("it is not an object of texts")
    if any(not name.endswith((".yaml", OFF)) or Path(name).name != name for name in found):
        raise ValueError("its names are not those of *.yaml and *.off files")
    return {name: text.encode() for name, text in found.items()}

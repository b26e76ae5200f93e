"""Polls the operators in a cluster every second for the active experiments.

A mounted ConfigMap would be too slow for a kill switch, because the kubelet may update it only after minutes.
"""

import logging
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import orjson
from pydantic import Field, TypeAdapter

from mtorl.experiment.experiment import ExperimentError
from mtorl.runtime.http import StatusError, send_request
from serving.router.ops.live_experiments import ExperimentFiles

log = logging.getLogger(__name__)
_ANSWER_SECONDS = 2.0
_SILENT_SECONDS = 10.0  # after this time without an answer, a changed mounted file applies
_TEXTS = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[^/]+\.(yaml|off)$")], str])  # file name -> its text


class OperatorFeed:
    """A source of experiments that polls operators, or else reads `mounted` or `last_good`."""

    def __init__(self, operator: str, mounted: ExperimentFiles, last_good: Path, router: str) -> None:
        self._url = urlsplit(f"{operator.rstrip('/')}/v1/in-force")
        self._mounted = self._tables_of = mounted
        self._last_good = ExperimentFiles(last_good)
        self._router = router
        self._answered = time.monotonic()
        self._silence = ""  # reason why no operator answered the last poll
        self._texts: Mapping[str, bytes] | None = None
        self._known = 0.0  # time of the poll or file change of `_texts`

    def texts(self, versions: Mapping[str, str], refused: bool) -> Mapping[str, bytes]:
        """Return the content of each file. Refused files are requested again, to notice a correction."""
        if not self._poll(versions, refused):
            if starting := self._texts is None:
                self._take_later(self._last_good)
            if starting or time.monotonic() - self._answered > _SILENT_SECONDS:
                self._take_later(self._mounted)
        if self._texts is None:
            asked = self._url.geturl()
            raise ExperimentError(f"no operator and no file has an experiment yet; {asked} says: {self._silence}")
        return self._texts

    def folder(self, name: str) -> Path:
        """As in `Source`."""
        return self._tables_of.folder(name)

    def _poll(self, versions: Mapping[str, str], everything: bool) -> bool:
        asked = time.time()
        try:
            texts = self._answer({"router": self._router, "has": dict(versions), "everything": everything})
        except OSError as error:
            if str(error) != self._silence:
                log.warning("no operator answers, and the router keeps its experiments: %s", error)
                self._silence = str(error)
            return False
        if texts is not None:  # None: this router has the active experiments
            self._texts, self._tables_of = texts, self._mounted
        self._answered, self._silence, self._known = time.monotonic(), "", asked
        return True

    def _answer(self, question: object) -> Mapping[str, bytes] | None:
        """Ask the operators in turn for the leader's answer; raises OSError."""
        answers: list[Mapping[str, bytes] | None] = []
        fault = "the operator's name has no address"
        for address in _addresses(self._url):
            try:
                url = f"{self._url.scheme}://{address}{self._url.path}"
                answer = send_request(url, question, seconds=_ANSWER_SECONDS)
                answers.append(None if answer.status == HTTPStatus.NO_CONTENT else _texts(answer.content))
            except (OSError, ValueError) as error:
                fault = _words(error)
                continue
            if answer.headers.get("mtorl-leads") == "true":
                break
        if not answers:
            raise OSError(fault)
        return answers[-1]

    def _take_later(self, files: ExperimentFiles) -> None:
        try:
            if (written := files.written) > self._known:
                self._texts, self._known, self._tables_of = files.texts(), written, files
        except ExperimentError as error:
            log.error("saved or mounted experiments can't be read: %s", error)


def _addresses(url: SplitResult) -> list[str]:
    found = socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)
    places = [(str(address[0]), int(address[1])) for *_, address in found]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places]


def _words(error: Exception) -> str:
    if isinstance(error, StatusError):
        try:
            return str(orjson.loads(error.content)["error"])
        except (ValueError, KeyError, TypeError):
            return str(error)
    return f"{type(error).__name__}: {error}"


def _texts(answer: bytes) -> dict[str, bytes]:
    return {name: text.encode() for name, text in _TEXTS.validate_json(answer).items()}

"""What the operator says is in force: asked every second, and kept while it does not answer.

    feed = OperatorFeed("http://mtorl-operator", mounted, last_good, "mtorl-router-0")
    LiveExperiment(feed, ...)
    feed.ask(version)                  # every second; then `LiveExperiment.refresh`

A kubelet may take minutes to bring a changed ConfigMap to a pod: too long for a kill switch. So the operator is asked,
and hears at once which version this router has. While it does not answer, the router goes on with what it has, and the
ConfigMap that is mounted counts as soon as it was written later than that: a person can still change it by hand.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.log.dataset import DatasetSpec

log = logging.getLogger(__name__)
_ANSWER_SECONDS = 2.0
_SILENT_SECONDS = 10.0  # for that long, the mounted file does not count
_MOST_BYTES = 4 << 20  # of an answer; a ConfigMap has at most one MiB


class OperatorFeed:
    """Asks the operator.

    Args:
        operator: Its base URL.
        mounted: The ConfigMap's file.
        last_good: What was in force last, before this start.
        router: Name of this router.
    """

    def __init__(self, operator: str, mounted: Path, last_good: Path, router: str) -> None:
        self._url = f"{operator.rstrip('/')}/v1/in-force"
        self._mounted = mounted
        self._router = router
        self._answered = time.monotonic()
        self._said = ""
        self._content: bytes | None = None
        self._known = 0.0  # by the router's clock, when it was asked for or written
        self._usable = True
        if not self._answers(""):
            self._take_later(last_good)
            self._take_later(mounted)

    @property
    def signature(self) -> object:
        """Changes with what is in force."""
        return self._content

    def load(self, spec: DatasetSpec) -> Experiment:
        """What is in force, which fits a data set.

        Raises:
            ExperimentError: Nobody has said so yet, or it can't be used.
        """
        self._usable = False
        if self._content is None:
            raise ExperimentError(f"the operator does not answer at {self._url}, and {self._mounted} is not there")
        try:
            experiment = Experiment.from_yaml(self._content)
            experiment.check(spec)
        except ExperimentError as error:
            raise ExperimentError(f"what the operator says is in force: {error}") from None
        self._usable = True
        return experiment

    def ask(self, version: str) -> None:
        """Ask what is in force now.

        Args:
            version: Of the experiment that this router has; empty: none.
        """
        # Whoever was told what it can't use asks for all of it, to hear of the end of that.
        if not self._answers(version if self._usable else "") and time.monotonic() - self._answered > _SILENT_SECONDS:
            self._take_later(self._mounted)

    def _answers(self, version: str) -> bool:
        query = urllib.parse.urlencode({"router": self._router, "version": version})
        asked = time.time()
        try:
            with urllib.request.urlopen(f"{self._url}?{query}", timeout=_ANSWER_SECONDS) as answer:
                self._content = _whole(answer)
        except urllib.error.HTTPError as error:
            if error.code != 304:
                return self._silent(f"HTTP {error.code}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return self._silent(f"{type(error).__name__}: {error}")
        self._answered, self._said, self._known = time.monotonic(), "", asked
        return True

    def _silent(self, why: str) -> bool:
        if why != self._said:
            log.warning("the operator does not say what is in force, and the router goes on with what it has: %s", why)
            self._said = why
        return False

    def _take_later(self, file: Path) -> None:
        """Take a file, if it was written later than what is known."""
        try:
            if (written := file.stat().st_mtime) > self._known:
                self._content, self._known = file.read_bytes(), written
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("what is in force can't be read: %s", error)


def _whole(answer: http.client.HTTPResponse) -> bytes:
    """The body of an answer.

    Raises:
        OSError: It does not come in time, or does not end.
        HTTPException: It ends early: half an experiment may be another one.
    """
    until, content = time.monotonic() + _ANSWER_SECONDS, b""
    while part := answer.read1(_MOST_BYTES):  # what has come, since waiting for all of it has no end
        content += part
        if len(content) > _MOST_BYTES or time.monotonic() > until:
            raise TimeoutError(f"after {len(content):,} bytes the answer has not ended")
    if answer.length:  # the end of the connection is not that of the answer
        raise http.client.IncompleteRead(content, answer.length)
    return content

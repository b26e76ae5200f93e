"""Asks the arms, which need not be ours: one POST for all items of an arm that wait.

    POST <endpoint>                    {"instances": [{"window": ..., "u": ..., "user_id": ..., ...}, ...]}
    -> {"predictions": [...]}          v1
    -> [...]                           or the list alone; to a single item, an answer alone
    POST <endpoint>/infer              {"inputs": [{"name": "instances", "datatype": "BYTES", ...}]}     v2
    -> {"outputs": [{"datatype": "BYTES", "data": ["<an answer as JSON>", ...]}]}

Whatever comes is read by its form. What an answer holds: `arm_answers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from http.client import HTTPMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.runtime.validation import short
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, Identity, identity, read_answer
from serving.router.flow.arm_client import ArmClient, shown
from serving.router.flow.arm_faults import ArmFaults
from serving.router.flow.arm_models import ArmModels
from serving.router.flow.local_policies import answer_here
from serving.router.ops import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Items = Sequence[dict[str, Any]]


class Arms:
    """All arms; its calls block.

    Args:
        channels: The channels that an arm may name.
        models: Is told which models answer.
        faults: Is told what is wrong with the answers of an arm.
    """

    def __init__(self, channels: Sequence[str], models: ArmModels, faults: ArmFaults) -> None:
        self._channels = channels
        self._models = models
        self._faults = faults
        self._client = ArmClient()

    def close(self) -> None:
        """Close all connections that nobody uses."""
        self._client.close()

    def ask(
        self, experiment: Experiment, arm: Arm, items: Items, seconds: float, spans: Iterable[Span] = ()
    ) -> list[ArmAnswer | ArmError]:
        """Ask for a decision on each item, in one call.

        Args:
            experiment: An experiment in force.
            arm: Its arm whose policy is asked.
            items: As `PendingDecision.item` makes them.
            seconds: How long to wait for the answers.
            spans: That the call belongs to.

        Returns:
            An answer or an error for each item, in order.

        Raises:
            ArmError: The whole call failed, or it is not the arm's model that answered.
            TimeoutError: There is no answer in time.
        """
        try:
            if (url := arm.url) is None:
                answers = [answer_here(arm, item) for item in items]
            else:
                answers = [_named(answer, arm) for answer in self.ask_at(url, items, seconds, spans)]
            self._models.check(experiment, arm, [identity(a.model) for a in answers if isinstance(a, ArmAnswer)])
        except ArmError as error:
            self._faults.count(experiment.key(arm.name), [error] * len(items))
            raise
        faults = [answer for answer in answers if isinstance(answer, ArmError) and answer.reason == ArmError.reason]
        self._faults.count(experiment.key(arm.name), faults)
        return answers

    def ask_at(self, url: str, items: Items, seconds: float, spans: Iterable[Span] = ()) -> list[ArmAnswer | ArmError]:
        """Likewise, of whatever answers there.

        Raises:
            ArmError: The whole call failed.
            TimeoutError: There is no answer in time.
        """
        status, said, body = self._said(url, items, seconds, spans)
        if status != 200:
            raise ArmError(f"{shown(url)}: HTTP {status}: {body[:200]!r}", "status")
        model: Identity = {"name": said.get("x-model-name"), "version": said.get("x-model-version"), "digest": None}
        return [self._read(answer, item, model) for answer, item in zip(_answers(body, len(items)), items, strict=True)]

    def raw_answer(self, url: str, items: Items, seconds: float) -> str:
        """The raw text of the answer; raises as `ask_at`."""
        return self._said(url, items, seconds, ())[2].decode(errors="replace")

    def _said(self, url: str, items: Items, seconds: float, spans: Iterable[Span]) -> tuple[int, HTTPMessage, bytes]:
        headers = {"content-type": "application/json", **tracing.outgoing(spans)}
        return self._client.post(url, _question(url, items), headers, seconds)

    def _read(self, answer: Any, item: dict[str, Any], model: Identity) -> ArmAnswer | ArmError:
        try:
            return read_answer(answer, self._channels, item["candidates"], model)
        except ArmError as error:
            return error


def _question(url: str, items: Items) -> bytes:
    if not urlsplit(url).path.endswith("/infer"):
        return orjson.dumps({"instances": items})
    texts = [orjson.dumps(item).decode() for item in items]
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return orjson.dumps({"inputs": [tensor]})


def _answers(body: bytes, asked: int) -> list[Any]:
    """The answers in a body, one for each item that was asked.

    Raises:
        ArmError: There are none, or not as many.
    """
    try:
        content = orjson.loads(body)
        if isinstance(content, dict) and "outputs" in content:
            content = [orjson.loads(text) for text in content["outputs"][0]["data"]]
    except (orjson.JSONDecodeError, TypeError, LookupError) as error:
        raise ArmError(f"expected JSON, got {short(body)} ({type(error).__name__})", "form") from None
    if isinstance(content, dict):
        content = content.get("predictions", [content] if asked == 1 else content)
    if not isinstance(content, list) or len(content) != asked:
        given = f"{len(content)}" if isinstance(content, list) else short(content)
        raise ArmError(
            f"expected {asked} answers, in a list or as predictions, in the order of the items; got {given}", "form"
        )
    return content


def _named(answer: ArmAnswer | ArmError, arm: Arm) -> ArmAnswer | ArmError:
    """With the experiment file's word for a model that does not say who it is."""
    if isinstance(answer, ArmError) or (arm.model_name is None and arm.model_version is None):
        return answer
    known = {**NOBODY, "name": arm.model_name, "version": arm.model_version}
    return replace(answer, model={key: answer.model[key] or known[key] for key in NOBODY})

"""Asks the arms, which need not be ours: one POST for all items of an arm that wait.

    POST <endpoint>                    {"instances": [{"window": ..., "u": ..., "user_id": ..., ...}, ...]}
    -> {"predictions": [...]}          v1
    -> [...]                           or the list alone; to a single item, an answer alone
    POST <endpoint>/infer              {"inputs": [{"name": "instances", "datatype": "BYTES", ...}]}     v2
    -> {"outputs": [{"datatype": "BYTES", "data": ["<an answer as JSON>", ...]}]}

Whatever comes is read by its form. What an answer holds: `arm_answers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.runtime.validation import short
from serving.micro_batcher import MicroBatcher
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, Identity, identity, read_answer
from serving.router.flow.arm_faults import ArmFaults
from serving.router.flow.arm_models import ArmModels
from serving.router.flow.local_policies import answer_here
from serving.router.ops import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_POSTS = 2  # to an arm at a time: it works on one while the other is under way
_MOST_BYTES = 8 * 1024**2  # of an answer: an arm may be anybody's program, and memory is everybody's
_LARGEST = 64  # windows in a POST that requests share: a few milliseconds of a model

Items = Sequence[dict[str, Any]]
_Asked = tuple[Items, "Span | None"]  # and the span that asks


class Arms:
    """HTTP client of all arms; keeps connections open.

    Args:
        channels: The channels that an arm may name.
        models: Is told which models answer.
        faults: Is told what is wrong with the answers of an arm.
    """

    def __init__(self, channels: Sequence[str], models: ArmModels, faults: ArmFaults) -> None:
        self._channels = channels
        self._models = models
        self._faults = faults
        self._session: aiohttp.ClientSession | None = None
        self._batchers: dict[str, MicroBatcher[_Asked, list[ArmAnswer | ArmError]]] = {}

    async def open(self) -> None:
        """Must be called inside the running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=64, keepalive_timeout=30, ttl_dns_cache=10),
            timeout=aiohttp.ClientTimeout(total=None),  # the caller's deadline counts
            headers={"content-type": "application/json"},
            skip_auto_headers=["User-Agent", "Accept-Encoding"],
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, experiment: Experiment, arm: Arm, items: Items) -> list[ArmAnswer | ArmError]:
        """Ask for a decision on each item, in one call with others that ask meanwhile.

        Args:
            experiment: An experiment in force.
            arm: Its arm whose policy is asked.
            items: As `PendingDecision.item` makes them.

        Returns:
            An answer or an error for each item, in order.

        Raises:
            ArmError: The whole call failed, or it is not the arm's model that answered.
        """
        try:
            if (url := arm.url) is None:
                answers = [answer_here(arm, item) for item in items]
            else:
                answers = [_named(answer, arm) for answer in await self.ask_at(url, items)]
            self._models.check(experiment, arm, [identity(a.model) for a in answers if isinstance(a, ArmAnswer)])
        except ArmError as error:
            self._faults.count(experiment.key(arm.name), [error] * len(items))
            raise
        faults = [answer for answer in answers if isinstance(answer, ArmError) and answer.reason == ArmError.reason]
        self._faults.count(experiment.key(arm.name), faults)
        return answers

    async def ask_at(self, url: str, items: Items) -> list[ArmAnswer | ArmError]:
        """Likewise, of whatever answers there.

        Raises:
            ArmError: The whole call failed.
        """
        if url not in self._batchers:
            self._batchers[url] = MicroBatcher(
                lambda groups: self._ask(url, groups), _POSTS, weight=lambda asked: len(asked[0]), largest=_LARGEST
            )
        return await self._batchers[url].submit((items, tracing.here()))

    async def _ask(self, url: str, groups: Sequence[_Asked]) -> list[list[ArmAnswer | ArmError] | Exception]:
        items = [item for group, _ in groups for item in group]
        traced = tracing.outgoing(span for _, span in groups)
        body, model = await self._post(url, _question(url, items), traced)
        answers = (
            self._read(answer, item, model) for answer, item in zip(_answers(body, len(items)), items, strict=True)
        )
        return [list(islice(answers, len(group))) for group, _ in groups]

    def _read(self, answer: Any, item: dict[str, Any], model: Identity) -> ArmAnswer | ArmError:
        try:
            return read_answer(answer, self._channels, item["candidates"], model)
        except ArmError as error:
            return error

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, Identity]:
        """The answer, and what its headers say of the model."""
        assert self._session is not None, "open() comes first"
        for last in (False, True):
            try:
                async with self._session.post(url, data=body, headers=headers) as response:
                    answer = await _read(url, response)
                    if response.status != 200:
                        raise ArmError(f"{url}: HTTP {response.status}: {answer[:200]!r}", "status")
                    name, version = map(response.headers.get, ("x-model-name", "x-model-version"))
                    return answer, {"name": name, "version": version, "digest": None}
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # The arm closed the connection while it was idle: a new one may work. A refused connection will not.
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise ArmError(f"{url}: {error}", "unreachable") from error
            except (aiohttp.ClientError, ValueError) as error:
                raise ArmError(f"{url}: {type(error).__name__}: {error}", "unreachable") from error
        raise AssertionError


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


async def _read(url: str, response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > _MOST_BYTES:
            raise ArmError(f"{url}: the answer is larger than {_MOST_BYTES} bytes", "form")
    return bytes(answer)

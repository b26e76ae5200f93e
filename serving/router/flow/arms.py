"""Client of the policies behind the router: one POST for all windows of an arm that wait; every answer is checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import aiohttp
import orjson

from mtorl.experiment.experiment import Arm, Experiment
from serving.router.flow.arm_models import ArmError, ArmModels
from serving.router.flow.micro_batcher import MicroBatcher

_POSTS = 2  # to an arm at a time: it works on one while the other is under way
_MOST_BYTES = 8 * 1024**2  # of an answer: an arm may be anybody's program, and memory is everybody's
_LARGEST = 64  # windows in a POST that requests share: a few milliseconds of a model

Items = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class ArmAnswer:
    """The decision of a policy."""

    channel: str
    propensity: float
    channel_probs: dict[str, float]
    exposure_probs: dict[str, float]  # of each channel, once it is drawn; empty: the policy did not say
    expected_rewards: dict[str, float]  # of each channel; empty: the policy did not say
    expected_costs: dict[str, float]
    expected_reward: float
    expected_cost: float
    expose: bool
    price: float | None
    prices: dict[str, float]  # of each channel; empty: the policy did not say
    model: dict[str, Any]  # name, version, digest


class Arms:
    """HTTP client of all arms; keeps connections open.

    Args:
        channels: The channels that an arm may name.
        models: Is told which models answer.
    """

    def __init__(self, channels: Sequence[str], models: ArmModels) -> None:
        self._channels = channels
        self._models = models
        self._session: aiohttp.ClientSession | None = None
        self._batchers: dict[str, MicroBatcher[Items, list[ArmAnswer | ArmError]]] = {}

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
            experiment: The experiment in force.
            arm: Its arm whose policy is asked.
            items: {"window": ..., "u": ...} each; a "price", number or {channel: number}, replaces the model's own.

        Returns:
            An answer or an error for each item, in order.

        Raises:
            ArmError: The whole call failed, or it is not the arm's model that answered.
        """
        url = arm.url
        if url not in self._batchers:
            self._batchers[url] = MicroBatcher(
                lambda groups: self._ask(url, groups), _POSTS, weight=len, largest=_LARGEST
            )
        answers = await self._batchers[url].submit(items)
        digests = [answer.model["digest"] for answer in answers if isinstance(answer, ArmAnswer)]
        self._models.check(experiment, arm, digests)
        return answers

    async def _ask(self, url: str, groups: Sequence[Items]) -> list[list[ArmAnswer | ArmError] | Exception]:
        items = [item for group in groups for item in group]
        body = await self._post(url, orjson.dumps({"instances": items}))
        try:
            predictions = orjson.loads(body)["predictions"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ArmError(f"{url}: the answer has no predictions ({type(error).__name__})") from None
        if not isinstance(predictions, list) or len(predictions) != len(items):
            raise ArmError(f"{url}: expected {len(items)} predictions")
        answers = map(self._checked, predictions)
        return [list(islice(answers, len(group))) for group in groups]

    async def _post(self, url: str, body: bytes) -> bytes:
        assert self._session is not None, "open() comes first"
        for last in (False, True):
            try:
                async with self._session.post(url, data=body) as response:
                    answer = await _read(url, response)
                    if response.status != 200:
                        raise ArmError(f"{url}: HTTP {response.status}: {answer[:200]!r}")
                    return answer
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # The arm closed the connection while it was idle: a new one may work. A refused connection will not.
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise ArmError(f"{url}: {error}") from error
            except (aiohttp.ClientError, ValueError) as error:
                raise ArmError(f"{url}: {type(error).__name__}: {error}") from error
        raise AssertionError

    def _checked(self, item: Any) -> ArmAnswer | ArmError:
        try:
            return self._answer(item)
        except (ArmError, KeyError, TypeError, ValueError, AttributeError) as error:
            return ArmError(f"not a decision: {type(error).__name__}: {error}")

    def _answer(self, item: dict[str, Any]) -> ArmAnswer:
        if "error" in item:
            raise ArmError(str(item["error"])[:200])
        channel, expose = item["channel"], item["expose"]
        probs = {name: _number(p, 0.0, 1.0 + 1e-6) for name, p in item["channel_probs"].items()}
        propensity = _number(item["propensity"], 0.0, 1.0 + 1e-6)
        price = item.get("price")
        prices = {name: _number(value, 0.0) for name, value in item.get("prices", {}).items()}
        exposure_probs = {name: _number(p, 0.0, 1.0) for name, p in item.get("exposure_probs", {}).items()}
        rewards = {name: _number(value) for name, value in item.get("expected_rewards", {}).items()}
        costs = {name: _number(value, 0.0) for name, value in item.get("expected_costs", {}).items()}
        named = {*probs, *prices, *exposure_probs, *rewards, *costs}
        if channel not in self._channels or not named <= set(self._channels):
            raise ArmError(f"unknown channel in {channel!r}, {sorted(named)}")
        if abs(sum(probs.values()) - 1.0) > 1e-3 or abs(probs[channel] - propensity) > 1e-6 or propensity <= 0.0:
            raise ArmError(f"probabilities do not fit together: {propensity}, {probs}")
        if not isinstance(expose, bool):
            raise ArmError(f"expose is {expose!r}")
        if exposure_probs and exposure_probs.get(channel) == float(not expose):
            raise ArmError(f"expose is {expose}, and its probability {exposure_probs[channel]}")
        model = {key: item["model"].get(key) for key in ("name", "version", "digest")}
        if not (isinstance(model["name"], str) and isinstance(model["version"], str | None)) or not isinstance(
            model["digest"], str
        ):
            raise ArmError(f"the model does not say who it is: {model}")
        return ArmAnswer(
            channel=channel,
            propensity=min(propensity, 1.0),
            channel_probs={name: min(p, 1.0) for name, p in probs.items()},
            exposure_probs=exposure_probs,
            expected_rewards=rewards,
            expected_costs=costs,
            expected_reward=_number(item["expected_reward"]),
            expected_cost=_number(item["expected_cost"], 0.0),
            expose=expose,
            price=None if price is None else _number(price, 0.0),
            prices=prices,
            model=model,
        )


async def _read(url: str, response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > _MOST_BYTES:
            raise ArmError(f"{url}: the answer is larger than {_MOST_BYTES} bytes")
    return bytes(answer)


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise ArmError(f"not a usable number: {value!r}")
    return float(value)
